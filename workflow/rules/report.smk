# Records -> derived tables (reports/analysis) -> pages; reports/all is the manifest of what was made. Then the site.
# Jobs that write several records declare a list of their digests, and keep those that are still right.
GROUPED = [
    r
    for jobs in (PLAN.evaluate, PLAN.bench)
    for job in jobs.values()
    for r in job["records"]
]
RECORDS = [record for record in PLAN.records() if record not in GROUPED]


rule reports_all:
    input:
        RECORDS,
        [f"{R}/evaluate/{group}.sha256" for group in PLAN.evaluate],
        [f"{R}/bench/{name}.sha256" for name in PLAN.bench],
        tracking=f"{R}/tracking.json",
        whatif="reports/whatif.html",
        families="reports/families/families.html",
        published=PUBLISHED,
        measured=sorted(str(path) for path in Path("reports/measured").rglob("*.json")),
    output:
        "reports/all",
    log:
        f"{R}/logs/report.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        records=RECORDS + GROUPED,
        digest=PLAN.digest,
    shell:
        "ladder report --records {params.records:q} --published reports/published --measured reports/measured "
        "--run {params.run:q} --out reports 2> {log:q}"


rule families:
    """Which decoders of the installed transformers can be rewired: the table of the page about them."""
    output:
        "reports/families/families.html",
        "reports/families/families.csv",
    log:
        f"{R}/logs/families.log",
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "ladder families --out reports/families > {log:q} 2>&1"


rule site:
    """The static site, in build/site: `snakemake --cores all site`, or `mkdocs build --strict`."""
    input:
        "reports/all",
        "mkdocs.yml",
        sorted(str(path) for path in Path("site").rglob("*") if path.is_file()),
    output:
        "build/site/index.html",
    log:
        f"{R}/logs/site.log",
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "mkdocs build --strict 2> {log:q}"
