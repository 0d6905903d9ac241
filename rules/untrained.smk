"""The untrained model: what it answers before any training, in one job per data set with `generate` and model."""


localrules:
    make_untrained,


rule answer_untrained:
    input:
        tokens=f"{OUT}/tokens/{{dataset}}/{{model}}.npz",
        model=f"{OUT}/models/{{model}}.json",
    output:
        # update(): answers that stand are scored again, where the scorer changed, and not written again.
        update(ANSWERED),
    log:
        f"{OUT}/logs/answer_untrained/{{dataset}}/{{model}}.log",
    priority: 1
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        gpu=int(EXPERIMENT.training.device == "cuda"),
    params:
        script=script("answer_untrained.py"),
        code=lambda w: code("answer_untrained.py"),
        settings=lambda w: as_json(EXPERIMENT.untrained_settings(w.dataset, w.model)),
        model=subpath(input.model, strip_suffix=".json"),
        scoring=scoring,
        folder=subpath(output[0], parent=True),
    shell:
        # exec: no shell stands between a signal and the process.
        "exec python {params.script:q} --settings {params.settings:q}"
        " --tokens {input.tokens:q} --model {params.model:q} --output-dir {params.folder:q}"
        " {params.scoring} --threads {threads} 2> {log:q}"


rule make_untrained:
    input:
        untrained=answered_untrained(),
        data=descriptions(),
    output:
        tables_in_report(table_files(["untrained"])),
    log:
        f"{OUT}/logs/make_untrained.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("make_untrained.py"),
        code=lambda w: code("make_untrained.py"),
        folder=subpath(output[0], parent=True),
        data=lambda w: f"{OUT}/data",
    shell:
        "python {params.script:q} --untrained {input.untrained:q} --data-dir {params.data:q}"
        " --output-dir {params.folder:q} 2> {log:q}"
