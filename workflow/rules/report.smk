# Records -> tidy CSV -> tables, figures, claims; reports/all is the manifest of what was made. Then the site.
RECORDS = [record for record in PLAN.records() if "/evaluate/" not in record]
EVALUATED = [record for record in PLAN.records() if "/evaluate/" in record]


rule reports_all:
    input:
        RECORDS,
        [f"{R}/evaluate/{group}.sha256" for group in PLAN.evaluate],
        tracking=f"{R}/tracking.json",
        published=sorted(str(path) for path in Path("reports/published").glob("*.csv")),
    output:
        "reports/all",
    log:
        f"{R}/logs/report.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        records=RECORDS + EVALUATED,
        digest=PLAN.digest,
    shell:
        "ladder report --records {params.records} --published reports/published --run {params.run} "
        "--out reports 2> {log}"


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
        "mkdocs build --strict 2> {log}"
