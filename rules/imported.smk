"""Results that others published, in a table of their own."""

if IMPORTED:

    localrules:
        make_imported,

    rule make_imported:
        input:
            results=ancient([path for paths in IMPORTED.values() for path in paths]),
        output:
            tables_in_report(table_files(["imported"])),
        log:
            f"{OUT}/logs/make_imported.log",
        conda:
            "../envs/environment.yaml"
        params:
            script=script("make_imported.py"),
            code=lambda w: code("make_imported.py"),
            results=lambda w: json.dumps(IMPORTED),
            content=lambda w, input: content_of(
                (path, Path(path)) for path in input.results
            ),
            folder=subpath(output[0], parent=True),
        shell:
            "python {params.script:q} --results {params.results:q} --output-dir {params.folder:q} 2> {log:q}"
