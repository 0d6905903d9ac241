"""The dev split on which learning rates are tuned: carved from train, so that test is not looked at."""

import itertools

import numpy as np

from peft_tradeoffs.batches import Split
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.splits import stratified_sample


def carve(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """`train` without the dev split, and the dev split: about `fraction` of its texts.

    Drawn by class (not for regression, whose labels are no integers); texts of the same tokens stay on one side. Raises
    InputError if either side would get too few rows.
    """
    ids: dict[bytes, int] = {}
    groups = np.array(
        [
            ids.setdefault(train.input_ids[start:end].tobytes(), len(ids))
            for start, end in itertools.pairwise(train.offsets)
        ]
    )
    first = np.unique(groups, return_index=True)[1]
    classification = np.issubdtype(train.labels.dtype, np.integer)
    strata = train.labels[first] if classification else np.zeros(len(first), dtype=np.int64)
    size, least = round(fraction * len(first)), max(2, len(np.unique(strata)))
    if not least <= size <= len(first) - least:
        raise InputError(
            f"config key tune.fraction: {fraction} of the {len(first)} different texts of train is {size}, at least "
            f"{least} are needed on either side; take another fraction, or more rows"
        )
    in_dev = np.isin(groups, stratified_sample(strata, size, seed))
    return train.take(np.flatnonzero(~in_dev)), train.take(np.flatnonzero(in_dev))
