"""The runs: one job trains the seeds of an arm one after another."""


rule train:
    input:
        tokens=f"{OUT}/tokens/{{dataset}}/{{model}}.npz",
        model=f"{OUT}/models/{{model}}.json",
        rate=tuned_rate,
    output:
        # update(): seeds that were finished before stay. One that a failed job finished is removed, and put back by the
        # next call from its state.
        update(job_outputs()),
    log:
        job_log(),
    priority: 1  # where cores are few, before what is sent to a tracker
    conda:
        "../envs/environment.yaml"
    threads: processes
    resources:
        gpu=gpus,
        nodes=1,  # that have all its GPUs
        checkpoint_interval_s=60,
        rank_timeout_s=600,
        # No param: a study whose weights are no longer kept is not trained again.
        keep_weights=int(EXPERIMENT.keep_weights),
    params:
        script=script("train.py"),
        code=lambda w: code("train.py"),
        settings=lambda w: as_json(EXPERIMENT.run_settings(w.dataset, w.model, w.arm)),
        model=subpath(input.model, strip_suffix=".json"),
        scoring=scoring,
        arm=f"{OUT}/runs/{{dataset}}/{{model}}/{{arm}}",
        seeds=job_seeds,
    shell:
        # exec: no shell stands between a signal and the training process.
        "exec python {params.script:q} --settings {params.settings:q} --seeds {params.seeds}"
        " --tokens {input.tokens:q} --model {params.model:q} --output-dir {params.arm:q}"
        " --learning-rate-from {input.rate:q}"
        " {params.scoring} --threads {threads} --checkpoint-interval {resources.checkpoint_interval_s}"
        " --keep-weights {resources.keep_weights} --rank-timeout {resources.rank_timeout_s}"
        " 2> {log:q}"
