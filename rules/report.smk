"""The report: one page of all tables and figures, to open, sort, filter and send on."""


localrules:
    make_report,


rule make_report:
    input:
        tables=report_tables(),
        markdown=[str(Path(name).with_suffix(".md")) for name in report_tables()],
        summaries=summaries(),
        data=descriptions(),
        tokens=token_descriptions(),
        untrained=answered_untrained(),
    output:
        in_report(f"{OUT}/report.html", "Report", None),
    log:
        f"{OUT}/logs/make_report.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("make_report.py"),
        code=lambda w: code("make_report.py"),
        page=page_content,
        templates=lambda w: templates_of("methods"),
        runs=lambda w, input: str(Path(input.summaries[0]).parents[4]),
        profiles=profiles_option(),
        data=lambda w: f"{OUT}/data",
        tokens=lambda w: f"{OUT}/tokens",
        untrained=(
            f"--untrained-dir {shlex.quote(f'{OUT}/untrained')}" if UNTRAINED else ""
        ),
    shell:
        "python {params.script:q} --tables {input.tables:q} --runs-dir {params.runs:q} --data-dir {params.data:q}"
        " --tokens-dir {params.tokens:q}"
        " {params.untrained} {params.profiles[option]} --output {output:q} 2> {log:q}"
