"""All that touches the network: models and data sets."""


localrules:
    fetch_model,
    fetch_dataset,


rule fetch_model:
    input:
        files=lambda w: source_files(EXPERIMENT.models[w.model]),
    output:
        f"{OUT}/models/{{model}}.json",
    log:
        f"{OUT}/logs/fetch_model/{{model}}.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("fetch_model.py"),
        code=lambda w: code("fetch_model.py"),
        source=lambda w: as_json(EXPERIMENT.models[w.model]),
        content=lambda w: content(EXPERIMENT.models[w.model].to_dict()),
    shell:
        "python {params.script:q} --source {params.source:q} --output {output:q} 2> {log:q}"


rule fetch_dataset:
    input:
        files=lambda w: source_files(EXPERIMENT.datasets[w.dataset]),
    output:
        f"{OUT}/data/{{dataset}}/dataset.json",
        f"{OUT}/data/{{dataset}}/train.parquet",
        f"{OUT}/data/{{dataset}}/test.parquet",
    log:
        f"{OUT}/logs/fetch_dataset/{{dataset}}.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("fetch_dataset.py"),
        code=lambda w: code("fetch_dataset.py"),
        source=lambda w: as_json(EXPERIMENT.fetched(w.dataset)),
        content=lambda w: content(EXPERIMENT.datasets[w.dataset].to_dict()),
        folder=subpath(output[0], parent=True),
        power=tell_power,
    shell:
        "python {params.script:q} --source {params.source:q} --output-dir {params.folder:q} 2> {log:q} && cat {log:q} >&2"
        "{params.power}"
