"""What a run saves loads with Transformers and PEFT alone, in a new process, and predicts what was recorded."""

import pytest
from reloaded import check


@pytest.mark.parametrize("arm", ["full", "lora-r4", "qlora-r4"])
def test_saved_model_reproduces_its_predictions(finished, arm):
    texts = [[line.split("\t")[0]] for line in (finished / "test.tsv").read_text().splitlines()[1:]]
    check(finished / f"results/runs/reviews/tiny/{arm}/seed1", texts, num_labels=2)
