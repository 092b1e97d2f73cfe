"""Speed and memory, measured as ratios side by side; each benchmark is a module with a table and a JSON file."""
