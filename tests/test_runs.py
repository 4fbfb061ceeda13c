import torch

from lib.params import AdaptParams, load
from lib.runs import append_line, provenance, read_json, read_lines, run_folder, save_checkpoint, write_json


def test_a_file_is_whole_or_absent(tmp_path):
    write_json(tmp_path / "deep" / "record.json", {"a": 1})
    assert read_json(tmp_path / "deep" / "record.json") == {"a": 1}
    try:
        write_json(tmp_path / "deep" / "record.json", {"a": object()})
    except TypeError:
        pass
    assert read_json(tmp_path / "deep" / "record.json") == {"a": 1}
    save_checkpoint(tmp_path / "state.pt", {"x": torch.ones(2)})
    assert torch.load(tmp_path / "state.pt", weights_only=True)["x"].tolist() == [1, 1]
    assert not list(tmp_path.glob("*.partial"))


def test_a_log_line_that_a_kill_cut_short_is_left_out(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_lines(log) == []
    append_line(log, {"step": 0})
    append_line(log, {"step": 1})
    with log.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_lines(log) == [{"step": 0}, {"step": 1}]


def test_the_record_names_commit_parameters_and_hardware():
    record = provenance(load(profile="embedded"), AdaptParams)
    assert record["params_hash"] == load(profile="embedded").stage_hash(AdaptParams)
    assert record["torch"] == torch.__version__ and "cores" in record["hardware"] and record["commit"]


def test_runs_have_folders_of_their_own():
    folders = {run_folder("embedded", run, w, s) for run in ("lss", "no_language") for w in (0, 1) for s in (0, 1)}
    assert len(folders) == 8
