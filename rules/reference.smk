"""A finished sweep as a reference, and a sweep against one. The check makes no output, so it always runs."""


localrules:
    store_reference,
    check_reference,


rule store_reference:
    input:
        summaries=summaries(),
        noise=noise_table(),
        tunings=tunings(),
        data=descriptions(),
    output:
        f"{OUT}/reference/runs.csv",
        f"{OUT}/reference/env.json",
        f"{OUT}/reference/answers.npz",
        f"{OUT}/reference/tunings.json",
        f"{OUT}/reference/factorials.json",
        expand(
            f"{OUT}/reference/{{name}}.csv", name=["noise"] if EXPERIMENT.noise else []
        ),
    log:
        f"{OUT}/logs/store_reference.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("store_reference.py"),
        code=lambda w: code("store_reference.py"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        noise=noise_option,
        weights=NO_WEIGHTS,
        folder=subpath(output[0], parent=True),
        trials=(
            f"--trials-dir {shlex.quote(f'{OUT}/tune/trials')} --tunings"
            if EXPERIMENT.trials
            else ""
        ),
        data=lambda w: f"{OUT}/data",
        factorials=json.dumps(FACTORIALS),
    shell:
        "python {params.script:q} --runs-dir {params.runs:q} --data-dir {params.data:q} --grid {params.grid:q}"
        " --factorials {params.factorials:q} {params.noise} {params.weights} {params.trials} {input.tunings:q} --output-dir {params.folder:q} 2> {log:q}"


rule check_reference:
    input:
        reference=check_reference_key,
        summaries=summaries(),
        noise=noise_table(),
    log:
        f"{OUT}/logs/check_reference.log",
    retries: 0
    conda:
        "../envs/environment.yaml"
    params:
        script=script("check_reference.py"),
        code=lambda w: code("check_reference.py"),
        reference=lambda w: EXPERIMENT.reference,
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        grid=json.dumps(GRID),
        noise=noise_option,
        weights=NO_WEIGHTS,
        margin=json.dumps(EXPERIMENT.comparison.margin),
        report=f"{OUT}/check_reference.md",
    shell:
        "python {params.script:q} --reference {params.reference:q} --runs-dir {params.runs:q} --grid {params.grid:q}"
        " {params.noise} {params.weights} --margin {params.margin:q} --output {params.report:q} 2> {log:q}"
