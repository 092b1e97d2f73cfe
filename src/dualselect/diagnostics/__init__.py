"""The motivating diagnostic: do different batches of the task put different references at risk?"""
