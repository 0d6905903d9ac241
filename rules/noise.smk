"""The noise floor: arms that the config names, with one seed, trained again and again, each time in a job of its own."""

if EXPERIMENT.noise:

    localrules:
        measure_noise,

    use rule train as repeat with:
        output:
            update(f"{REPEAT}/seed{EXPERIMENT.noise.seed}/summary.json"),
        log:
            f"{OUT}/logs/noise/repeat{{repeat}}/{{dataset}}/{{model}}/{{arm}}.log",
        params:
            arm=REPEAT,
            seeds=EXPERIMENT.noise.seed,

    rule measure_noise:
        input:
            summaries=repeats(),
        output:
            tables_in_report(table_files(["noise"])),
        log:
            f"{OUT}/logs/measure_noise.log",
        conda:
            "../envs/environment.yaml"
        params:
            script=script("measure_noise.py"),
            code=lambda w: code("measure_noise.py"),
            noise=lambda w: f"{OUT}/noise",
            grid=json.dumps(repeated()),
            repeats=EXPERIMENT.noise.repeats,
            folder=subpath(output[0], parent=True),
        shell:
            "python {params.script:q} --noise-dir {params.noise:q} --grid {params.grid:q} --repeats {params.repeats}"
            " --output-dir {params.folder:q} 2> {log:q}"
