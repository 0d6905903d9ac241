"""The view of equal memory: each arm again, at the largest batch under a cap."""

AT_CAPS = f"{OUT}/equal_memory/found/{{dataset}}/{{model}}/{{arm}}.json"


localrules:
    make_equal_memory,


rule train_at_equal_memory:
    input:
        tokens=f"{OUT}/tokens/{{dataset}}/{{model}}.npz",
        model=f"{OUT}/models/{{model}}.json",
        rate=tuned_rate,
    output:
        AT_CAPS,
    log:
        f"{OUT}/logs/train_at_equal_memory/{{dataset}}/{{model}}/{{arm}}.log",
    priority: 1
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        gpu=gpus,  # 1: the configuration refuses more
        checkpoint_interval_s=60,
    params:
        script=script("train_at_equal_memory.py"),
        code=lambda w: code("train_at_equal_memory.py"),
        settings=lambda w: as_json(EXPERIMENT.run_settings(w.dataset, w.model, w.arm)),
        model=subpath(input.model, strip_suffix=".json"),
        scoring=scoring,
        runs=f"{OUT}/equal_memory/runs/{{dataset}}/{{model}}/{{arm}}",
        seeds=GRID["seed"],
        caps=lambda w: EXPERIMENT.equal_memory.caps_GiB,
        largest=lambda w: EXPERIMENT.equal_memory.largest_batch_size,
        rule=lambda w: EXPERIMENT.equal_memory.learning_rate_rule,
    shell:
        # exec: no shell stands between a signal and the training process.
        "exec python {params.script:q} --settings {params.settings:q} --seeds {params.seeds}"
        " --caps {params.caps} --largest {params.largest} --rule {params.rule}"
        " --tokens {input.tokens:q} --model {params.model:q} --learning-rate-from {input.rate:q}"
        " --runs-dir {params.runs:q} --output {output:q}"
        " {params.scoring} --threads {threads} --checkpoint-interval {resources.checkpoint_interval_s} 2> {log:q}"


rule make_equal_memory:
    input:
        found=expand(
            AT_CAPS,
            dataset=GRID["dataset"],
            model=GRID["model"],
            arm=EXPERIMENT.equal_memory.arms if EXPERIMENT.equal_memory else [],
        ),
        contract=f"{OUT}/tables/contract.csv",
        models=expand(f"{OUT}/models/{{model}}.json", model=GRID["model"]),
    output:
        tables_in_report(table_files(["equal_memory"])),
    log:
        f"{OUT}/logs/make_equal_memory.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("make_equal_memory.py"),
        code=lambda w: code("make_equal_memory.py"),
        runs=f"{OUT}/equal_memory/runs",
        folder=subpath(output[0], parent=True),
    shell:
        "python {params.script:q} --found {input.found:q} --runs-dir {params.runs:q}"
        " --contract {input.contract:q} --models {input.models:q} --output-dir {params.folder:q} 2> {log:q}"
