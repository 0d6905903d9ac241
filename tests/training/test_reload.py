"""What a run saves loads with Transformers and PEFT alone, in a new process, and predicts what was recorded."""

from reloaded import check


def test_saved_models_reproduce_their_predictions(finished):
    texts = [[line.split("\t")[0]] for line in (finished / "test.tsv").read_text().splitlines()[1:]]
    runs = [finished / f"results/runs/reviews/tiny/{arm}/seed1" for arm in ("full", "lora-r4", "qlora-r4")]
    check(runs, texts, num_labels=2)
