from whisper_shard.cli import doctor
from whisper_shard.cli.doctor import Finding
from whisper_shard.cli.main import run


def test_a_problem_is_named_and_ends_with_the_exit_code_of_the_machine(monkeypatch, capsys):
    findings = [Finding(name="python", is_ok=True, detail="3.11"), Finding(name="torch", is_ok=False, detail="missing")]
    monkeypatch.setattr(doctor, "check_installation", lambda: findings)
    assert run(["doctor"]) == 3
    good, bad = capsys.readouterr().out.splitlines()
    assert good.split() == ["ok", "python", "3.11"] and bad.split() == ["problem", "torch", "missing"]
    findings.pop()
    assert run(["doctor"]) == 0


def test_fix_says_what_it_disabled(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "check_installation", lambda: [])
    monkeypatch.setattr(doctor, "disable_cuda_extensions", lambda: [tmp_path / "lib.so"])
    assert run(["doctor"]) == 0 and capsys.readouterr().out == ""
    assert run(["doctor", "--fix"]) == 0
    assert f"disabled {tmp_path / 'lib.so'}: it needs CUDA libraries" in capsys.readouterr().out
