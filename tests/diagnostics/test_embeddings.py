"""Embeddings against gradients of single backward passes, where the warm-up has led."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from dualselect.diagnostics.bench import Bench
from dualselect.diagnostics.embeddings import embed, projection
from dualselect.diagnostics.resources import make_resources
from dualselect.gradients import Direction, Layout, Sketch
from dualselect.runs.diagnostic import read_embeddings, read_json

pytestmark = pytest.mark.slow

_SAMPLES = (("task", 3), ("references", 5))


def embedded(settings):
    """Return the bench of a diagnostic after its embeddings."""
    make_resources(settings.options, settings.seed, settings.folder)
    bench = Bench(settings)
    bench.warm_up()
    embed(bench)
    return bench


def gradient_of(bench, role, row):
    """Return loss and gradient of one sample by a backward pass of its own."""
    pool = bench.pool(role)
    model = pool.model.eval()
    model.zero_grad()
    example = pool.examples[bench.places(role)[row]]
    batch = {name: torch.tensor([example[name]]) for name in ("input_ids", "labels")}
    loss = model(**batch).loss
    loss.backward()
    gradient = Direction.from_grads(bench.params)
    model.zero_grad()
    return float(loss.detach()), gradient


@pytest.mark.parametrize("metric", ["raw", "adam"])
def test_embeddings_are_sketches_of_single_gradients(settings_of, metric):
    bench = embedded(settings_of(metric=metric))
    scale = bench.metric.scale.vector if metric == "adam" else torch.ones(Layout.of(bench.params).size)
    # The sketch of a vector stretched by the root of the scale, by the plain sketch.
    plain = Sketch(Layout.of(bench.params), 64, 3)
    for role, row in _SAMPLES:
        loss, gradient = gradient_of(bench, role, row)
        stretched = Direction(gradient.layout, gradient.vector * scale.sqrt())
        vectors, table = read_embeddings(bench.folder, role)
        assert vectors.shape == (len(table), 64)
        np.testing.assert_allclose(vectors[row], plain(stretched), rtol=1e-3, atol=1e-5 * float(stretched.norm()))
        assert table["loss"][row].as_py() == pytest.approx(loss, rel=1e-4)
        assert table["norm"][row].as_py() == pytest.approx(float(stretched.norm()), rel=1e-4)
        assert table["id"].to_pylist() == bench.ids(role)


def test_the_metric_is_that_of_the_optimizer_of_the_warm_up(settings_of):
    bench = embedded(settings_of(metric="adam"))
    scale = bench.metric.scale.vector
    state = next(iter(bench._trainer.run.optimizer.optimizer.state.values()))
    first = state["exp_avg_sq"].flatten()
    truth = 1 / ((first / (1 - 0.999**2)).sqrt() + 1e-8)
    torch.testing.assert_close(scale[: len(first)], truth, rtol=1e-4, atol=0.0)


def test_the_error_of_the_sketch_is_that_of_exact_gradients(settings_of):
    bench = embedded(settings_of(references_limit=8))
    sketch = projection(bench)
    tasks, references = (
        [gradient_of(bench, role, row)[1] for row in range(len(bench.ids(role)))] for role in ("task", "references")
    )
    errors = np.array(
        [[abs(float(sketch(a) @ sketch(b) - a.dot(b))) / float(a.norm() * b.norm()) for b in references] for a in tasks]
    )
    found = read_json(bench.folder, "projection.json")["johnson_lindenstrauss"]
    # All 24 task samples and all 8 references are taken.
    assert found["pairs"] == 24 * 8
    assert found["mean"] == pytest.approx(errors.mean(), rel=1e-3)
    assert found["median"] == pytest.approx(np.median(errors), rel=1e-3)
    assert found["p95"] == pytest.approx(np.quantile(errors, 0.95), rel=1e-3)
    assert found["root_mean_square"] == pytest.approx((errors**2).mean() ** 0.5, rel=1e-3)
    assert found["bound_of_root_mean_square"] == pytest.approx((2 / 64) ** 0.5)


def test_a_fresh_start_hides_the_gradient_of_factor_a_and_a_warm_one_does_not(settings_of, tmp_path):
    shares = {}
    for start in ("fresh", "warm"):
        bench = embedded(settings_of(start=start, output_dir=str(tmp_path / start)))
        views = gradient_of(bench, "task", 0)[1].views()
        shares[start] = [float(view.norm()) > 0 for name, view in views.items() if "lora_A" in name]
    assert not any(shares["fresh"])
    assert all(shares["warm"])


def test_samples_without_a_supervised_token_have_no_embedding(settings_of, tmp_path, write_lines):
    rows = [{"id": f"r{n}", "prompt": "why " * (80 if n == 1 else 1) + str(n), "completion": "no"} for n in range(5)]
    bench = embedded(settings_of(references=write_lines(tmp_path / "r.jsonl", rows), max_length=48))
    vectors, table = read_embeddings(bench.folder, "references")
    missing = table["id"].to_pylist().index("r1")
    assert np.flatnonzero(np.isnan(vectors).any(1)).tolist() == [missing]
    assert np.isnan(table["norm"].to_numpy()).nonzero()[0].tolist() == [missing]


def test_the_aligned_model_is_the_one_before_the_warm_up(settings_of):
    bench = embedded(settings_of())
    now = Direction.of(bench.params).vector
    with bench.aligned():
        aligned = Direction.of(bench.params).views()
    assert all(not view.any() for name, view in aligned.items() if "lora_B" in name)
    torch.testing.assert_close(Direction.of(bench.params).vector, now)
    # Another process finds the same weights.
    again = Bench(bench.settings)
    again.pool("task")
    assert torch.equal(Direction.of(again.params).vector, now)


def test_sketches_keep_inner_products_on_average_over_seeds():
    layout = Layout(("w",), (torch.Size([3000]),))
    a, b = (Direction(layout, torch.randn(3000)) for _ in range(2))
    b.axpy(1.0, a)
    found = torch.stack([torch.dot(s(a), s(b)) for s in (Sketch(layout, 512, seed) for seed in range(200))])
    assert float(found.mean()) == pytest.approx(float(a.dot(b)), rel=0.05)


def test_a_seed_gives_the_same_sketch_in_another_process():
    code = (
        "import torch\n"
        "from dualselect.gradients import Direction, Layout, Sketch\n"
        "layout = Layout(('w',), (torch.Size([300]),))\n"
        "print(Sketch(layout, 16, 7)(Direction(layout, torch.arange(300.0))).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    layout = Layout(("w",), (torch.Size([300]),))
    assert str(Sketch(layout, 16, 7)(Direction(layout, torch.arange(300.0))).tolist()) == other.strip()


def test_the_aligned_model_answers_references_that_have_no_answer(settings_of, tmp_path, write_lines):
    rows = [{"id": f"r{n}", "prompt": f"why {n}"} for n in range(4)]
    references = write_lines(tmp_path / "r.jsonl", rows)
    bench = embedded(settings_of(references=references, reference_answer_tokens=6, warmup_learning_rate=1.0))
    pool = bench.pool("references")
    (row,) = [row for row, place in bench.places("references").items() if place == 0]
    example = pool.examples[0]
    prompt = example["input_ids"][: next(n for n, label in enumerate(example["labels"]) if label != -100)]
    with bench.aligned(), torch.no_grad():
        answer = pool.model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0].tolist()
    # The answer is text meanwhile, so tokens may be cut otherwise.
    tokenizer = bench._trainer.processing_class
    assert tokenizer.decode(example["input_ids"], skip_special_tokens=True).startswith(
        tokenizer.decode(answer, skip_special_tokens=True).rstrip()
    )
    assert np.isfinite(read_embeddings(bench.folder, "references").vectors[row]).all()
