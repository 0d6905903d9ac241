"""Tables over all runs."""


localrules:
    make_tables,
    make_tuning,
    compare_arms,


rule make_tables:
    input:
        summaries=summaries(),
        data=descriptions(),
        tokens=token_descriptions(),
        contract=f"{OUT}/tables/contract.csv",
    output:
        tables_in_report(table_files(RESULTS)),
    log:
        f"{OUT}/logs/make_tables.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("make_tables.py"),
        code=lambda w: code("make_tables.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        folder=subpath(output[0], parent=True),
        data=lambda w: f"{OUT}/data",
        tokens=lambda w: f"{OUT}/tokens",
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --data-dir {params.data:q} --grid {params.grid:q}"
        " --tokens-dir {params.tokens:q}"
        " --contract {input.contract:q} --output-dir {params.folder:q} 2> {log:q}"


rule compare_arms:
    input:
        summaries=summaries(),
        tunings=tunings(),
        data=descriptions(),
        tokens=token_descriptions(),
        contract=f"{OUT}/tables/contract.csv",
    output:
        tables_in_report(table_files(COMPARISONS)),
    log:
        f"{OUT}/logs/compare_arms.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("compare_arms.py"),
        code=lambda w: code("compare_arms.py"),
        templates=lambda w: templates_of("comparison"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        baseline=lambda w: EXPERIMENT.comparison.baseline,
        margin=json.dumps(EXPERIMENT.comparison.margin),
        tunings=lambda w: (
            f"--tunings-dir {shlex.quote(f'{OUT}/tune/best')}"
            if EXPERIMENT.trials
            else ""
        ),
        folder=subpath(output[0], parent=True),
        data=lambda w: f"{OUT}/data",
        tokens=lambda w: f"{OUT}/tokens",
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --data-dir {params.data:q} --grid {params.grid:q}"
        " --tokens-dir {params.tokens:q}"
        " --baseline {params.baseline:q} --margin {params.margin:q} --contract {input.contract:q}"
        " {params.tunings} --output-dir {params.folder:q} 2> {log:q}"


rule make_tuning:
    input:
        tunings=tunings(),
    output:
        tables_in_report(table_files(["tuning"])),
    log:
        f"{OUT}/logs/make_tuning.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("make_tuning.py"),
        code=lambda w: code("make_tuning.py"),
        deciding=sorted({arm.tuned_as for arm in EXPERIMENT.arms.values()} - {None}),
        folder=subpath(output[0], parent=True),
        power=tell_power_of_trials,
    shell:
        "python {params.script:q} --tunings {input.tunings:q} --deciding {params.deciding:q}"
        " --output-dir {params.folder:q} 2> {log:q}{params.power}"
