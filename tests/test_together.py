from ladder.cli import main


def test_a_command_that_fails_does_not_keep_the_others_from_running(tmp_path, capsys):
    rows = f"simulate rows --published reports/published --out {tmp_path}/rows.csv"
    assert main(["together", "laddr", rows]) == 1
    assert (tmp_path / "rows.csv").exists()
    said = capsys.readouterr().err
    assert "laddr" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert main(["together", rows, rows]) == 0
