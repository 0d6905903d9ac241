"""Order and display names of arms, from their method and rank."""

from collections.abc import Iterable

import pandas as pd

FULL = "full"

SPELLING = {
    "full": "full",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "dora": "DoRA",
    "qdora": "QDoRA",
    "rslora": "rsLoRA",
    "adalora": "AdaLoRA",
    "pissa": "PiSSA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "ia3": "IA3",
    "vera": "VeRA",
    "oft": "OFT",
    "boft": "BOFT",
    "hra": "HRA",
    "bone": "Bone",
}


def method_label(method: str) -> str:
    """The method's name as its authors spell it; a name of the user's own stays as it is."""
    return SPELLING.get(method, method)


def arm_label(method: str, rank: int | None) -> str:
    """An arm's name for readers, e.g. "LoRA r8"; without a rank the method's name alone."""
    return method_label(method) if pd.isna(rank) else f"{method_label(method)} r{int(rank)}"


def method_order(methods: Iterable[str]) -> list[str]:
    """The distinct methods in order of first appearance, full fine-tuning first."""
    return sorted(dict.fromkeys(methods), key=lambda method: method != FULL)


def sort_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of tables and figures, with a fresh index.

    Data set and model by first appearance, then method (see `method_order`), rank, arm and seed;
    an arm without a rank comes before its method's ranks.
    """
    position = {method: index for index, method in enumerate(method_order(runs["method"]))}
    keys = pd.DataFrame(
        {
            "dataset": pd.factorize(runs["dataset"])[0],
            "model": pd.factorize(runs["model"])[0],
            "method": runs["method"].map(position).to_numpy(),
            "rank": runs["rank"].astype(float).fillna(-1).to_numpy(),
            "arm": runs["arm"].to_numpy(),
            "seed": runs["seed"].to_numpy(),
        }
    )
    order = keys.sort_values(list(keys.columns), kind="stable").index
    return runs.iloc[order].reset_index(drop=True)
