"""Accuracy against memory, time and energy of full fine-tuning, LoRA and QLoRA."""

from snakemake.utils import min_version

min_version("9.19")


include: "rules/common.smk"
include: "rules/fetch.smk"
include: "rules/prepare.smk"
include: "rules/tune.smk"
include: "rules/train.smk"
include: "rules/untrained.smk"
include: "rules/equal_memory.smk"
include: "rules/noise.smk"
include: "rules/profiles.smk"
include: "rules/contract.smk"
include: "rules/tables.smk"
include: "rules/views.smk"
include: "rules/imported.smk"
include: "rules/figures.smk"
include: "rules/report.smk"
include: "rules/export.smk"
include: "rules/track.smk"
include: "rules/status.smk"
include: "rules/gpu_check.smk"
include: "rules/estimate.smk"
include: "rules/reference.smk"


rule all:
    default_target: True
    input:
        results(),


rule fetch:
    input:
        fetched_files(),


rule runs:
    input:
        summaries(),


rule tables:
    input:
        table_files(),
        recommendation_files(),


rule figures:
    input:
        figure_files(),


rule export:
    input:
        export_files(),
        rules.write_cards.output,
