"""Tables, from the files that runs leave: made up here, so that every published number can be checked by hand."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from lib.run import params
from lib.run.fields import AdaptParams, EvaluateParams
from lib.run.files import read_json, write_json
from lib.run.params import ParamsError
from lib.study import formats, results, suites, tables
from lib.study.results import paired_bootstrap

CLIPS = 40


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Runs lie under a folder of the test."""
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    monkeypatch.setattr(
        suites,
        "run_folder",
        lambda profile, ablation, world, seed, overrides: tmp_path / ablation / f"world{world}-seed{seed}",
    )
    return tmp_path


def suite_of(rows, replicas):
    return suites.Suite(folder="", rows=rows, reference="lss", replicas=replicas)


def finish(
    run,
    *,
    right,
    probe_right=None,
    classes=16,
    missing=0,
    test="test",
    commit="abcdef0123",
    data="00ff00ff00ff",
    **record,
):
    """Leaves the files of a finished evaluation: `right` of the CLIPS test clips are right in zero-shot."""
    counts = {"zero_shot": right, "linear_probe": right if probe_right is None else probe_right}
    (dataset,) = run.params.evaluate_on
    correct = {
        f"{dataset}/{test}/{protocol}": (np.arange(CLIPS) < count).astype(np.uint8)
        for protocol, count in counts.items()
    }
    correct[f"{dataset}/{test}/clips"] = np.arange(CLIPS)
    metrics = [
        {
            "dataset": dataset,
            "part": part,
            "protocol": protocol,
            "metric": "top1",
            "value": 100 * count / CLIPS if part == test else 0.0,
        }
        for protocol, count in counts.items()
        for part in ("validation", test)
    ]
    run.folder.mkdir(parents=True)
    adapted = {"commit": commit, **record, "params_hash": run.params.stage_hash(AdaptParams)}
    write_json(run.folder / "adapt.json", adapted)
    save_file(correct, run.folder / "correct.safetensors")
    write_json(
        run.folder / "metrics.json",
        {
            "datasets": {
                dataset: {
                    "classes": [f"c{i}" for i in range(classes)],
                    "data": data,
                    "counts": {"listed": CLIPS + missing, "found": CLIPS, "decoded": CLIPS},
                }
            },
            "metrics": metrics,
            "commit": commit,
            "params_hash": run.params.stage_hash(EvaluateParams),
            **record,
        },
    )


def fail(run):
    """What the workflow leaves of a notebook that ended with an error."""
    (run.folder / "02_adapt.log").write_text("ConceptError")
    (run.folder / "02_adapt.log.failed").touch()


def line(table, **where):
    (found,) = table[(table[list(where)] == pd.Series(where)).all(axis=1)].to_dict("records")
    return found


def test_the_suites_that_are_shipped_have_rows_with_valid_parameters():
    profiles = {"paper": "paper", "rendered": "rendered", "pilot": "embedded+pilot"}
    profiles |= dict.fromkeys(("quality", "names"), "rendered")
    for path in (params.FOLDER / "suites").glob("*.yaml"):
        suite = suites.read_suite(path.stem)
        rows = {*suite.rows, *(row for table in suite.comparisons.values() for row in table.rows)}
        assert {run.ablation for run in suites.runs_of(suite, profiles.get(path.stem, "embedded"))} == rows


@pytest.mark.parametrize(
    "change, message",
    [
        ({"row": ["lss"]}, "row: Extra inputs"),
        ({"replicas": [[0]]}, "replicas.0: List should have at least 2"),
        ({"reference": "no_language"}, "reference 'no_language' is none of the rows"),
        ({"rows": []}, "rows: List should have"),
        ({"folder": "theirs"}, "folder: 'theirs' is the folder of suites/other.yaml"),
        (
            {"tables": {"zero_shot": {"title": "", "rows": ["lss"]}}},
            r"tables: \['zero_shot'\] are names of the tables of",
        ),
    ],
)
def test_a_faulty_suite_is_an_error_that_names_file_and_key(tmp_path, monkeypatch, change, message):
    content = {"folder": "", "rows": ["lss"], "reference": "lss", "replicas": [[0, 0]]} | change
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "suites" / "other.yaml").write_text("folder: theirs")
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match=f"suites/mine.yaml: .*{message}"):
        suites.read_suite("mine")


def test_a_row_without_training_runs_once_a_world(outputs):
    runs = suites.runs_of(suite_of(["image_clip", "lss"], [[0, 0], [0, 1], [1, 0], [1, 2]]), "embedded")
    assert [(run.ablation, run.world_seed, run.seed) for run in runs] == [
        ("image_clip", 0, 0),
        ("image_clip", 1, 0),
        ("lss", 0, 0),
        ("lss", 0, 1),
        ("lss", 1, 0),
        ("lss", 1, 2),
    ]
    assert all((run.params.world_seed, run.params.seed) == (run.world_seed, run.seed) for run in runs)


def test_other_data_than_the_embedded_world_has_no_remade_worlds(outputs):
    runs = suites.runs_of(suite_of(["lss"], [[0, 0], [1, 0], [0, 1]]), "ucf101", {"data_ucf101": "some/folder"})
    assert [(run.world_seed, run.seed, run.params.data_ucf101) for run in runs] == [
        (0, 0, "some/folder"),
        (0, 1, "some/folder"),
    ]
    with pytest.raises(ParamsError, match="replica of world 0"):
        suites.runs_of(suite_of(["lss"], [[1, 0]]), "ucf101")
    elsewhere = suite_of(["lss"], [[0, 0]]).model_copy(
        update={"tables": {"worlds": suites.Table(title="", rows=["lss"], replicas=[[1, 0]])}}
    )
    with pytest.raises(ParamsError, match="worlds needs a replica of world 0"):
        suites.runs_of(elsewhere, "ucf101")


def test_the_csv_has_mean_and_population_std_over_seeds_with_what_made_them(outputs):
    suite = suite_of(["image_clip", "lss"], [[0, 0], [0, 1], [1, 0]])
    runs = suites.runs_of(suite, "embedded")
    for run, right in zip(runs, (20, 16, 30, 34, 24)):  # image_clip in worlds 0 and 1; lss: two seeds, world 1
        finish(run, right=right)
    tables.write_tables(suite, runs, outputs / "tables")
    written = {path.name for path in (outputs / "tables").iterdir()}
    assert written == {
        f"{name}.{suffix}"
        for name in ("zero_shot", "linear_probe", "few_labels", "objectives")
        for suffix in ("csv", "md", "tex", "json")
    }
    table = pd.read_csv(outputs / "tables" / "zero_shot.csv", keep_default_na=False)
    assert list(table.columns) == [
        "run",
        "dataset",
        "protocol",
        "metric",
        "mean",
        "std",
        "seeds",
        "paper",
        "source",
        "commit",
        "params_hash",
        "runs",
    ]
    lss = line(table, run="lss", dataset="embedded", metric="top1")
    assert (lss["mean"], float(lss["std"]), lss["seeds"], lss["commit"]) == (80.0, 5.0, 2, "abcdef0123")
    assert lss["params_hash"] == " ".join(run.params.stage_hash(EvaluateParams) for run in runs[2:4])
    assert lss["runs"] == " ".join(str(run.folder) for run in runs[2:4])
    alone = line(table, run="image_clip", dataset="embedded-1", metric="top1")
    assert (alone["mean"], alone["std"], alone["seeds"], alone["paper"]) == (40.0, "", 1, "")


def test_differences_are_paired_within_worlds_and_pooled_over_them(outputs):
    suite = suite_of(["image_clip", "lss"], [[0, 0], [1, 0]])
    runs = suites.runs_of(suite, "embedded")
    for run, right in zip(runs, (20, 16, 30, 36)):
        finish(run, right=right)
    found = (
        results.differences(results.collect(runs), "lss", resamples=10_000)
        .query("protocol == 'zero_shot'")
        .set_index("dataset")
    )
    answers = [np.arange(CLIPS) < right for right in (20, 16, 30, 36)]
    own = paired_bootstrap([(answers[3], answers[1], np.arange(CLIPS))], seed=0)
    assert tuple(found.loc["embedded-1", ["mean", "low", "high"]]) == own
    assert found.loc["embedded-all", "mean"] == pytest.approx((25 + 50) / 2)
    assert found.loc["embedded-all", "low"] > found.loc["embedded", "low"]  # two worlds tell more than one
    _, remade = tables.write_tables(suite, runs, outputs / "tables")["objectives"]
    assert list(remade["embedded-1, zero-shot"]) == ["40.0", "90.0", "6.2"]  # of image_clip, lss, chance
    assert remade["lss - run, all worlds, zero-shot"][0].startswith("**+37.5 [")
    assert (outputs / "tables" / "objectives.tex").read_text().count(r"\begin{tabular}") == 2
    table = pd.read_csv(outputs / "tables" / "objectives.csv", keep_default_na=False)
    assert line(table, dataset="embedded-1", protocol="zero_shot", metric="lss_minus_row_top1_low")["mean"] == round(
        own.low, 2
    )


def test_a_difference_says_what_both_rows_come_from(outputs):
    runs = suites.runs_of(suite := suite_of(["image_clip", "lss"], [[0, 0], [1, 0]]), "embedded")
    for run in runs:
        finish(run, right=20, commit="aaaaaaaaaa" if run.ablation == "lss" else "bbbbbbbbbb")
    tables.write_tables(suite, runs, outputs / "tables")
    table = pd.read_csv(outputs / "tables" / "objectives.csv", keep_default_na=False)
    gap = line(table, run="image_clip", dataset="embedded-1", protocol="zero_shot", metric="lss_minus_row_top1")
    assert gap["commit"].split() == ["bbbbbbbbbb", "aaaaaaaaaa"]
    assert [Path(place).parent.name for place in gap["runs"].split()] == ["image_clip", "lss"] and len(
        gap["params_hash"].split()
    ) == 2
    pooled = line(
        table, run="image_clip", dataset="embedded-all", protocol="zero_shot", metric="lss_minus_row_top1_low"
    )
    assert len(pooled["runs"].split()) == 4


def test_few_labels_have_a_table_with_a_column_for_each_amount(outputs):
    (run,) = suites.runs_of(suite := suite_of(["lss"], [[0, 0]]), "embedded")
    finish(run, right=30)
    record = read_json(run.folder / "metrics.json")
    record["metrics"] += [
        {
            "dataset": "embedded",
            "part": "test",
            "protocol": f"linear_probe_{count}_shot",
            "metric": "top1",
            "value": 10.0 + count,
        }
        for count in (1, 2, 4, 8, 16)
    ]
    write_json(run.folder / "metrics.json", record)
    (table,) = tables.write_tables(suite, [run], outputs / "tables")["few_labels"]
    assert table.to_dict("records") == [
        {
            "run": "lss",
            "dataset": "embedded",
            "1 a class": "11.0",
            "2 a class": "12.0",
            "4 a class": "14.0",
            "8 a class": "18.0",
            "16 a class": "26.0",
            "all": "75.0",
        },
        {
            "run": "chance",
            "dataset": "embedded",
            "1 a class": "6.2",
            "2 a class": "6.2",
            "4 a class": "6.2",
            "8 a class": "6.2",
            "16 a class": "6.2",
            "all": "6.2",
        },
    ]


def test_each_data_set_has_its_own_measure():
    values = pd.DataFrame(
        [
            {
                "run": "lss",
                "world_seed": 0,
                "seed": 0,
                "dataset": dataset,
                "part": "test",
                "protocol": "zero_shot",
                "metric": metric,
                "value": value,
                "commit": "c",
                "params_hash": "h",
                "folder": "f",
            }
            for dataset, metric, value in (("ucf101", "top1", 70.0), ("charades", "mAP", 20.0))
        ]
    )
    states = pd.DataFrame([{"run": "lss", "dataset": name, "state": "done"} for name in ("ucf101", "charades")])
    table = tables.long_table(results.Collected(values, states), ["zero_shot"])
    assert list(table["metric"]) == ["top1", "mAP"]
    assert list(tables._headline(tables.protocol_table(table))) == ["70.0", "20.0"]


def test_runs_that_saw_other_files_are_not_compared(outputs):
    suite = suite_of(["image_clip", "lss"], [[0, 0]])
    runs = suites.runs_of(suite, "embedded")
    finish(runs[0], right=20)
    finish(runs[1], right=20, data="123456789abc")
    with pytest.raises(
        ValueError, match="image_clip/world0-seed0 and .*lss/world0-seed0 were evaluated on different files of embedded"
    ):
        tables.write_tables(suite, runs, outputs / "tables")


def test_bold_differences_are_those_whose_interval_excludes_zero(outputs):
    suite = suite_of(["image_clip", "no_language", "lss"], [[0, 0]])
    runs = suites.runs_of(suite, "embedded")
    for run, right in zip(runs, (10, 29, 30)):
        finish(run, right=right)
    readable = tables.write_tables(suite, runs, outputs / "tables")["objectives"][0].set_index("run")[
        "lss - run, zero-shot"
    ]
    assert readable["image_clip"].startswith("**+50.0 [") and readable["image_clip"].endswith("]**")
    assert readable["no_language"].startswith("+2.5 [") and readable["lss"] == ""
    assert r"\textbf{+50.0 [" in (outputs / "tables" / "objectives.tex").read_text()
    assert r"no\_language &" in (outputs / "tables" / "objectives.tex").read_text()


def test_failed_and_missing_runs_are_marked_and_not_left_out(outputs):
    suite = suite_of(["image_clip", "no_language", "lss"], [[0, 0], [0, 1]])
    runs = suites.runs_of(suite, "embedded")
    finish(runs[3], right=30)  # lss, seed 0; its seed 1 and no_language fail, image_clip is not run
    for run in (runs[1], runs[4]):
        run.folder.mkdir(parents=True)
        fail(run)
    tables.write_tables(suite, runs, outputs / "tables")
    table = pd.read_csv(outputs / "tables" / "zero_shot.csv", keep_default_na=False)
    assert line(table, run="image_clip", metric="top1")["mean"] == "not run"
    assert line(table, run="no_language", metric="top1")["mean"] == "failed"
    lss = line(table, run="lss", metric="top1")
    assert (float(lss["mean"]), lss["seeds"]) == (75.0, 1)
    text = (outputs / "tables" / "objectives.md").read_text()
    assert "failed: lss, world 0, seed 1 (see lss/world0-seed1/02_adapt.log)" in text and "1 of 2" in text


def test_numbers_that_other_parameters_made_do_not_count(outputs):
    (run,) = suites.runs_of(suite_of(["lss"], [[0, 0]]), "embedded")
    finish(run, right=30, params_hash="other")
    assert results.collect([run]).values.empty
    assert suites.state_of(run) == ("not run", "")
    (run.folder / "02_adapt.log").write_text("of the other parameters")
    assert suites.state_of(run)[0] == "not run"
    (run.folder / "adapt.json").unlink()
    assert suites.state_of(run)[0] == "not finished"  # under way, or stopped
    fail(run)
    assert suites.state_of(run)[0] == "failed"  # without a model to show for it


def test_numbers_of_a_model_that_is_no_longer_there_do_not_count(outputs):
    (run,) = suites.runs_of(suite_of(["lss"], [[0, 0]]), "embedded")
    finish(run, right=30)
    (run.folder / "02_adapt.log").write_text("killed")
    assert suites.state_of(run) == ("done", "")
    (run.folder / "adapt.json").unlink()
    assert (
        suites.state_of(run) == ("not finished", "lss/world0-seed0/02_adapt.log")
        and results.collect([run]).values.empty
    )


def test_numbers_whose_answers_are_cut_short_do_not_count(outputs):
    (run,) = suites.runs_of(suite_of(["lss"], [[0, 0]]), "embedded")
    finish(run, right=30)
    path = run.folder / "correct.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert suites.state_of(run) == ("not run", "") and results.collect([run]).values.empty


def test_reported_numbers_stand_only_beside_the_whole_data_set(outputs):
    suite = suite_of(["lss"], [[0, 0]])
    (run,) = suites.runs_of(suite, "ucf101")
    finish(run, right=30, classes=5, test="test-1", missing=7)
    subset = tables.long_table(results.collect([run]), ["zero_shot", "linear_probe"])
    assert set(subset["dataset"]) == {"ucf101 (5 of 101 classes)"} and set(subset["paper"]) == {""}
    assert "47 test clips decoded; 7 have no file and are left out" in "".join(
        tables.states_notes(results.collect([run]))
    )
    record = read_json(run.folder / "metrics.json")
    record["datasets"]["ucf101"]["classes"] = [f"c{i}" for i in range(101)]
    write_json(run.folder / "metrics.json", record)
    whole = tables.long_table(results.collect([run]), ["zero_shot", "linear_probe"])
    assert line(whole, run="lss", protocol="linear_probe", metric="top1")["paper"] == "91.1"
    assert line(whole, run="lss", protocol="zero_shot", metric="top1")["paper"] == "not available"
    record["datasets"]["ucf101"]["parts"] = {
        "test-1": {"absent_classes": [f"c{i}" for i in range(97)]}
    }  # asked for, but without clips
    write_json(run.folder / "metrics.json", record)
    assert set(tables.long_table(results.collect([run]), ["zero_shot"])["dataset"]) == {"ucf101 (4 of 101 classes)"}


def test_the_summary_shows_the_published_numbers_of_the_same_rows(outputs):
    suite = suite_of(["image_clip", "lss"], [[0, 0], [0, 1]])
    runs = suites.runs_of(suite, "embedded")
    for run, right in zip(runs, (20, 30, 34)):
        finish(run, right=right)
    tables.write_tables(suite, runs, outputs / "tables")
    small = suite_of(["lss"], [[0, 0]])
    tables.write_tables(small, suites.runs_of(small, "embedded"), outputs / "small")
    header, row, chance = tables.summary(outputs / "small", outputs / "tables").splitlines()
    assert chance.split() == ["chance", "embedded", *["6.2"] * 4]
    assert "published zero-shot" in header and row.split()[:3] == ["lss", "embedded", "75.0"] and "80.0 ± 5.0" in row
    assert "published" not in tables.summary(outputs / "small", None)


def table_suite(**tables):
    return suites.Suite(folder="", rows=["image_clip", "lss"], reference="lss", replicas=[[0, 0]], tables=tables)


def test_a_suite_may_have_tables_with_rows_references_and_replicas_of_their_own(outputs):
    suite = table_suite(
        terms={"title": "Terms", "rows": ["distillation", "lss"]},
        seeds={
            "title": "Seeds",
            "rows": ["no_language", "lss"],
            "reference": "no_language",
            "replicas": [[0, 0], [0, 1]],
        },
    )
    runs = suites.runs_of(suite, "embedded")
    assert [(run.ablation, run.seed) for run in runs] == [
        ("image_clip", 0),
        ("lss", 0),
        ("lss", 1),
        ("distillation", 0),
        ("no_language", 0),
        ("no_language", 1),
    ]
    for run, right in zip(runs, (20, 30, 32, 28, 18, 22)):
        finish(run, right=right, commit="abcdef0123" if run.ablation != "distillation" else "bbbbbb0123")
    written = tables.write_tables(suite, runs, outputs / "tables")
    assert set(written) == {"zero_shot", "linear_probe", "few_labels", "terms", "seeds"}
    terms = pd.read_csv(outputs / "tables" / "terms.csv", keep_default_na=False)
    assert set(terms["run"]) == {"distillation", "lss", "chance"}
    assert line(terms, run="lss", protocol="zero_shot", metric="top1")["seeds"] == 1  # its own seed alone
    seeds = pd.read_csv(outputs / "tables" / "seeds.csv", keep_default_na=False)
    assert line(seeds, run="lss", protocol="zero_shot", metric="top1")["mean"] == 77.5
    gap = line(seeds, run="lss", protocol="zero_shot", metric="no_language_minus_row_top1")
    assert float(gap["mean"]) == -27.5
    assert "runs of 2 commits are mixed: abcdef0123, bbbbbb0123" in (outputs / "tables" / "terms.md").read_text()
    assert "are mixed" not in (outputs / "tables" / "seeds.md").read_text()
    tables.write_tables(suite, runs, outputs / "some", only=["terms"])
    assert {path.stem for path in (outputs / "some").iterdir()} == {"terms"}


def test_commits_with_the_same_code_are_not_mixed(outputs):
    runs = suites.runs_of(suite_of(["image_clip", "no_language", "lss"], [[0, 0]]), "embedded")
    for run, (commit, code) in zip(runs, (("aaaa", "11"), ("bbbb", "11"), ("cccc", "22"))):
        finish(run, right=20, commit=commit, code=code)
    assert "are mixed" not in "".join(tables.states_notes(results.collect(runs[:2])))
    assert "runs of 3 commits are mixed: aaaa, bbbb, cccc" in tables.states_notes(results.collect(runs))


def test_a_table_whose_reference_is_no_row_of_it_is_refused():
    with pytest.raises(ValueError, match="terms: reference 'lss' is none of the rows"):
        table_suite(terms={"title": "Terms", "rows": ["distillation"]})


@pytest.mark.parametrize(
    "content, message",
    [
        ({"alignment_weight": 1.0}, "mine.yaml: changes nothing in profile 'embedded'"),
        ({"workers": 3}, "mine.yaml: changes nothing in profile 'embedded': .* only how the work is done"),
        ({"seed": 5}, r"mine.yaml: \['seed'\] are set by the replicas of a suite"),
        (
            {"target_normalisation": "none", "uniform_prior_weight": 0.0},
            "mine.yaml: has the same parameters as distillation_alignment.yaml",
        ),
    ],
)
def test_rows_that_change_nothing_or_the_same_are_found_before_anything_runs(tmp_path, monkeypatch, content, message):
    shutil.copytree(params.FOLDER, tmp_path / "params")
    (tmp_path / "params" / "ablations" / "mine.yaml").write_text(yaml.safe_dump(content))
    for module in (params, suites):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "params")
        monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match=f"params/ablations/{message}"):
        suites.runs_of(suite_of(["lss", "distillation_alignment", "mine"], [[0, 0]]), "embedded")


def test_numbers_of_others_have_rows_of_their_own_with_their_source(outputs):
    suite = suite_of(["lss"], [[0, 0]])
    (run,) = suites.runs_of(suite, "ucf101")
    finish(run, right=30, classes=101, test="test-1")
    tables.write_tables(suite, [run], outputs / "tables")
    table = pd.read_csv(outputs / "tables" / "zero_shot.csv", keep_default_na=False)
    maxi = line(table, run="MAXI (no labels)")
    assert (maxi["mean"], maxi["paper"], maxi["source"]) == ("", "78.2 ± 0.8", "arXiv 2303.08914")
    text = (outputs / "tables" / "linear_probe.md").read_text()
    assert "91.1 (arXiv 2307.10922)" in text and "| SVT | CVPR 2022 | 90.8 |" in re.sub(" +", " ", text)


def test_progress_counts_runs_and_estimates_the_rest_from_those_done(outputs):
    runs = suites.runs_of(suite_of(["image_clip", "lss"], [[0, 0], [0, 1], [0, 2]]), "embedded")
    assert suites.progress(runs, at_once=2) == "4 runs: 0 done, 0 failed, 0 not finished, 4 not run"
    for run, seconds in zip(runs[:2], (60, 240)):
        finish(run, right=20, seconds=seconds / 2)
    assert suites.progress(runs, at_once=2).splitlines() == [
        "4 runs: 2 done, 0 failed, 0 not finished, 2 not run",
        "about 4 minutes left, 2 at once (2.5 minutes a run)",
    ]


def test_what_runs_warn_of_stands_below_every_table_and_in_the_terminal(outputs):
    suite = suite_of(["image_clip", "lss"], [[0, 0]])
    runs = suites.runs_of(suite, "ucf101")
    for run in runs:
        finish(run, right=30, classes=5, test="test-1")
        record = read_json(run.folder / "metrics.json")
        top5 = [
            entry | {"metric": "top5", "value": 100.0} for entry in record["metrics"]
        ]  # as older evaluations left it
        write_json(
            run.folder / "metrics.json",
            record | {"metrics": record["metrics"] + top5, "warnings": ["rendered people alone"]},
        )
    write_json(
        runs[1].folder / "adapt.json",
        read_json(runs[1].folder / "adapt.json") | {"warnings": ["16 steps teach little"]},
    )
    tables.write_tables(suite, runs, outputs / "tables")
    for name in ("zero_shot", "linear_probe", "objectives"):
        text = (outputs / "tables" / f"{name}.md").read_text()
        assert {"- warning: rendered people alone", "- warning: 16 steps teach little (lss)"} <= set(text.splitlines())
        assert "chance" in text and "top-5 |" not in text
    shown = tables.summary(outputs / "tables", None).splitlines()
    assert shown[3].split() == ["chance", "ucf101", "(5", "of", "101", "classes)", "20.0", "20.0"]
    assert set(shown[4:]) == {"warning: rendered people alone", "warning: 16 steps teach little (lss)"}


def test_chance_is_a_row_of_every_data_set_and_form(outputs):
    values = pd.DataFrame(
        [
            {
                "run": "lss",
                "world_seed": 0,
                "seed": 0,
                "dataset": dataset,
                "part": "test",
                "protocol": protocol,
                "metric": metric,
                "value": 70.0,
                "commit": "c",
                "params_hash": "h",
                "folder": "f",
            }
            for dataset, protocol, metric in (
                ("hmdb51", "zero_shot", "top1"),
                ("hmdb51", "zero_shot", "top5"),
                ("hmdb51", "zero_shot_half", "top1"),
                ("embedded", "zero_shot", "pair_top1"),
                ("charades", "zero_shot", "mAP"),
            )
        ]
    )
    states = pd.DataFrame(
        [{"run": "lss", "dataset": name, "state": "done"} for name in ("hmdb51", "embedded", "charades")]
    )
    collected = results.Collected(values, states, {"hmdb51": 51, "embedded": 16, "charades": 157})
    table = tables.long_table(collected, ["zero_shot", "zero_shot_half"])
    assert table[table["run"] == "chance"][["dataset", "protocol", "metric", "mean"]].values.tolist() == [
        ["hmdb51", "zero_shot", "top1", "1.96"],
        ["hmdb51", "zero_shot", "top5", "9.80"],
        ["hmdb51", "zero_shot_half", "top1", "4.00"],
        ["embedded", "zero_shot", "pair_top1", "50.00"],
    ]
    (row,) = tables.protocol_table(table).query("run == 'chance' and dataset == 'embedded'").to_dict("records")
    assert (row["pairs"], row["seeds"]) == ("50.0", "")
    assert r"chance & embedded &" in formats.latex(tables.protocol_table(table).fillna(""))
