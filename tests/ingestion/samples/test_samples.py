"""Images of every layout become rows, the same bytes for any number of workers: annotations.py, build.py, job.py,
layouts.py, options.py, plan.py, rows.py, tables.py, yolo.py.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import headrace as hr
from headrace.cli.app import main
from headrace.errors import ConfigError, DocumentError, HeadraceError, ResumeError, SourceError
from headrace.images import decode_instance_mask, encode_png
from headrace.store import ClassLabel, verify_samples


def photo(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def jpeg(seed, **size):
    sink = io.BytesIO()
    Image.fromarray(photo(seed, **size)).save(sink, "JPEG")
    return sink.getvalue()


def folders(path, count=12):
    for i in range(count):
        folder = path / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03d}.jpg").write_bytes(jpeg(i))
    return path


def read(out):
    with hr.SampleStore.open(out) as store:
        assert verify_samples(store) == store.nbytes
        return store.features, list(store)


def files(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_folder_per_class_keeps_the_bytes_of_its_images(tmp_path):
    source = folders(tmp_path / "in")
    (source / "dog/notes.txt").write_text("no image")
    (source / "empty").mkdir()
    summary = hr.ingest(source, tmp_path / "out", samples=hr.Samples())
    features, rows = read(tmp_path / "out")
    assert features["label"] == ClassLabel(("cat", "dog"))
    assert [(row["name"], row["label"]) for row in rows[:2]] == [("cat/000.jpg", 0), ("cat/002.jpg", 0)]
    assert {row["name"]: row["image"] for row in rows} == {
        f"{('cat', 'dog')[i % 2]}/{i:03d}.jpg": jpeg(i) for i in range(12)
    }
    assert (summary.documents, summary.num_sources, summary.rejects) == (12, 12, {})
    assert any("empty: no images" in note for note in summary.notes)


def test_a_damaged_image_is_a_reject_with_its_files_name(tmp_path, capsys):
    source = folders(tmp_path / "in", 30)
    (source / "cat/000.jpg").write_bytes(jpeg(0)[:300])
    summary = hr.ingest(source, tmp_path / "out", samples=hr.Samples())
    assert summary.rejects == {"damaged_image": 1}
    (reject,) = map(orjson.loads, (tmp_path / "out/rejects.jsonl").read_bytes().splitlines())
    assert reject["source"].endswith("cat/000.jpg")
    assert len(hr.SampleStore.open(tmp_path / "out")) == 29
    assert main(["inspect", str(tmp_path / "out"), "--verify"]) == 0
    with (tmp_path / "out/rejects.jsonl").open("ab") as file:
        file.write(b"{}\n")
    assert main(["inspect", str(tmp_path / "out"), "--verify"]) != 0
    assert "rejects.jsonl" in capsys.readouterr().err
    with pytest.raises(DocumentError, match=r"cat/000\.jpg"):
        hr.ingest(source, tmp_path / "strict", samples=hr.Samples(), job=hr.JobOptions(strict=True))
    for i in range(2, 12, 2):
        (source / f"cat/{i:03d}.jpg").write_bytes(b"")
    with pytest.raises(DocumentError, match=r"6 of 30 rows are bad; max_reject_share allows 0\.05"):
        hr.ingest(source, tmp_path / "many", samples=hr.Samples())


def test_webdataset_tars(tmp_path):
    for n in range(2):
        with tarfile.open(tmp_path / f"part-{n}.tar", "w") as tar:
            for i in range(3):
                for extension, data in (
                    ("jpg", jpeg(10 * n + i)),
                    ("cls", str(i).encode()),
                    ("txt", f"größe {i}".encode()),
                    ("mask.png", encode_png(np.full((20, 30), i, np.uint8))),
                ):
                    member = tarfile.TarInfo(f"a/{i:04d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    hr.ingest(sorted(tmp_path.glob("*.tar")), tmp_path / "out", samples=hr.Samples())
    features, rows = read(tmp_path / "out")
    assert list(features) == ["image", "label", "text", "mask", "name"]
    assert [row["image"] for row in rows] == [jpeg(i) for i in (0, 1, 2, 10, 11, 12)]
    assert [(row["label"], row["text"], row["name"]) for row in rows[4:5]] == [(1, "größe 1", "a/0001")]
    (tmp_path / "cut.tar").write_bytes((tmp_path / "part-0.tar").read_bytes()[:6000])
    with pytest.raises(HeadraceError, match=r"cut\.tar"):
        hr.ingest(
            tmp_path / "cut.tar", tmp_path / "cut", samples=hr.Samples(), job=hr.JobOptions(strict=True)
        )


@pytest.mark.parametrize("as_struct", [True, False])
def test_parquet_with_a_column_of_images(tmp_path, as_struct):
    images = [jpeg(i) for i in range(5)]
    table = pa.table(
        {
            "image": [{"bytes": data, "path": "x"} for data in images] if as_struct else images,
            "label": pa.array([0, 1, 1, 0, 1]),
            "weight": pa.array([0.5, 1, 2, 3, 4], pa.float32()),
            "other": [[1], [2], [], [], []],
        }
    )
    about = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    summary = hr.ingest(tmp_path / "a.parquet", tmp_path / "out", samples=hr.Samples())
    features, rows = read(tmp_path / "out")
    assert features["label"] == ClassLabel(("cat", "dog"))
    assert [row["image"] for row in rows] == images
    assert [row["weight"] for row in rows] == [0.5, 1, 2, 3, 4]
    assert any("left out: other" in note for note in summary.notes)
    with pytest.raises(SourceError, match="no column 'photo'; the columns are: image"):
        hr.ingest(tmp_path / "a.parquet", tmp_path / "no", samples=hr.Samples(image_field="photo"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_of_paths(tmp_path, kind):
    records = []
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        records.append({"path": f"{i}.jpg", "label": str(10 - i)})
    text = "path,label\n" + "".join(f"{r['path']},{r['label']}\n" for r in records)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / f"list.{kind}").write_text(text if kind == "csv" else lines)
    hr.ingest(tmp_path / f"list.{kind}", tmp_path / "out", samples=hr.Samples())
    features, rows = read(tmp_path / "out")
    assert features["label"].names == ("7", "8", "9", "10")
    assert [(row["name"], row["label"]) for row in rows] == [(f"{i}.jpg", 3 - i) for i in range(4)]


BOXES = {"a.jpg": [("tree", [1, 2, 10, 12]), ("car", [0, 0, 5, 5])], "b.jpg": []}


def voc(path):
    for name, objects in BOXES.items():
        (path / name).write_bytes(jpeg(ord(name[0])))
        edges = ("xmin", "ymin", "xmax", "ymax")
        inner = "".join(
            f"<object><name>{kind}</name><bndbox>"
            + "".join(f"<{e}>{v}</{e}>" for e, v in zip(edges, box, strict=True))
            + "</bndbox></object>"
            for kind, box in objects
        )
        (path / name).with_suffix(".xml").write_text(
            f"<annotation><filename>{name}</filename>{inner}</annotation>"
        )
    return path


def coco(path):
    (path / "images").mkdir()
    for name in BOXES:
        (path / "images" / name).write_bytes(jpeg(ord(name[0])))
    ids = {"car": 3, "tree": 7}
    data = {
        "categories": [{"id": 7, "name": "tree"}, {"id": 3, "name": "car"}],
        "images": [{"id": 100 + i, "file_name": name} for i, name in enumerate(BOXES)],
        "annotations": [
            {
                "image_id": 100,
                "category_id": ids[kind],
                "bbox": [x, y, x2 - x, y2 - y],
                "iscrowd": 0,
                "area": 9,
            }
            for kind, (x, y, x2, y2) in BOXES["a.jpg"]
        ],
    }
    (path / "annotations.json").write_text(json.dumps(data))
    return path


def csv_boxes(path):
    for name in BOXES:
        (path / name).write_bytes(jpeg(ord(name[0])))
    lines = [f"{name},{','.join(map(str, box))},{kind}" for name in BOXES for kind, box in BOXES[name]]
    (path / "boxes.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("make", [voc, coco, csv_boxes])
def test_boxes_of_every_annotation_format(tmp_path, make):
    source = tmp_path / "in"
    source.mkdir()
    hr.ingest(make(source), tmp_path / "out", samples=hr.Samples())
    features, rows = read(tmp_path / "out")
    assert features["classes"].feature.names == ("car", "tree")
    assert [row["name"] for row in rows] == (["a.jpg"] if make is csv_boxes else ["a.jpg", "b.jpg"])
    assert rows[0]["image"] == jpeg(ord("a"))
    assert rows[0]["boxes"].tolist() == [[1, 2, 10, 12], [0, 0, 5, 5]]
    assert rows[0]["classes"].tolist() == [1, 0]
    if make is coco:
        assert [row["image_id"] for row in rows] == [100, 101]
        extra = hr.SampleStore.open(tmp_path / "out").extra
        assert extra["ingest"][0]["category_ids"] == [3, 7]


def test_voc_masks_are_those_of_classes_and_of_objects(tmp_path):
    source = tmp_path / "in"
    (source / "Annotations").mkdir(parents=True)
    voc(source / "Annotations")
    for folder, value in (("SegmentationClass", 15), ("SegmentationObject", 2)):
        (source / folder).mkdir()
        mask = np.zeros((20, 30), np.uint8)
        mask[4:9, 6:20], mask[3] = value, 255
        palette = Image.fromarray(mask).convert("P")
        palette.putdata(mask.ravel().tolist())
        palette.save(source / folder / "a.png")
    hr.ingest(source, tmp_path / "out", samples=hr.Samples())
    image = hr.ImageTransform(size=(20, 30))
    store = hr.SampleStore.open(tmp_path / "out")
    batch = next(hr.Loader(store, batch_size=2, shuffle="none", image=image))
    for name, value in (("mask", 15), ("instance_mask", 2)):
        assert batch[name][0].unique().tolist() == [0, value, 255]
        assert batch[name][1].unique().tolist() == [255]  # the image without one


def yolo(path, names, lines):
    """Two images of 30 x 20; one has a file of labels."""
    for folder in ("images/train", "labels/train"):
        (path / folder).mkdir(parents=True)
    for i in range(2):
        (path / f"images/train/{i}.jpg").write_bytes(jpeg(i))
    (path / "labels/train/0.txt").write_text("\n".join(lines) + "\n")
    for name, text in names.items():
        (path / name).write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "train: images/train\nnc: 2\nnames: ['car', 'oak # tree']  # two\n"),
        ("data.yaml", 'names: [car,\n  "oak # tree"]\n'),
        ("data.yaml", "names:\n  0: car\n  1: 'oak # tree'\nnc: 2\n"),
        ("data.yaml", "names:\n- car\n- oak # tree\n"),
        ("classes.txt", "car\noak # tree\n"),
    ],
)
def test_yolo_boxes_are_corners_in_pixels(tmp_path, name, text):
    lines = ["1 0.5 0.5 0.2 0.5", "0 0.1 0.1 0.4 0.1 0.4 0.6"]
    source = yolo(tmp_path / "in", {name: text}, lines)
    summary = hr.ingest(source, tmp_path / "out", samples=hr.Samples())
    features, rows = read(tmp_path / "out")
    expected = "oak" if text.endswith("- oak # tree\n") else "oak # tree"  # a comment where it is not quoted
    assert features["classes"].feature.names == ("car", expected)
    assert [row["name"] for row in rows] == ["train/0.jpg", "train/1.jpg"]
    assert np.allclose(rows[0]["boxes"], [[12, 5, 18, 15], [3, 2, 12, 12]], atol=1e-5)
    assert rows[0]["classes"].tolist() == [1, 0]
    assert len(rows[1]["boxes"]) == 0
    assert summary.notes[0].startswith("layout yolo")
    assert any("1 polygons" in note for note in summary.notes)
    assert rows[0]["masks"][0] == ""
    drawn = decode_instance_mask(rows[0]["masks"][1], 20, 30)
    y, x = np.nonzero(drawn)
    # The triangle (3, 2), (12, 2), (12, 12).
    assert np.allclose([x.min(), x.max(), y.min(), y.max()], [3, 11, 2, 11], atol=1)
    assert len(x) == pytest.approx(45, abs=6)
    assert rows[1]["masks"] == []
    assert any("1 images have no file in labels/" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.2 0.5", "class 2; there are names for 2 classes"),
        ("0 50 50 20 20", "expected shares of the image"),
        ("0 0.5 0.5", "3 values; expected a class and a box or polygon"),
        ("0 0.5 0.5 nan 0.5", "expected shares"),
        ("0 0.5 0.5 0 0.5", "expected x0 < x1"),
        ("car 0.5 0.5 0.2 0.5", "invalid literal"),
    ],
)
def test_a_yolo_line_that_is_no_box_makes_its_image_a_reject(tmp_path, line, words):
    source = yolo(tmp_path / "in", {"classes.txt": "car\noak\n"}, [line])
    (source / "labels/train/orphan.txt").write_text("0 0.5 0.5 0.2 0.5\n")
    summary = hr.ingest(source, tmp_path / "out", samples=hr.Samples(), job=hr.JobOptions(max_reject_share=1))
    assert summary.rejects == {"bad_annotation": 2}
    details = (tmp_path / "out/rejects.jsonl").read_text()
    assert words in details
    assert "orphan.txt: no image of its name" in details


def test_yolo_without_class_names_and_splits_in_folders_are_named(tmp_path):
    lines = ["0 0.5 0.5 0.2 0.5"]
    for name, text in ((None, ""), ("data.yaml", "nc: 2\n"), ("data.yaml", "names: {1: car}\n")):
        source = yolo(tmp_path / f"in{len(text)}", {} if name is None else {name: text}, lines)
        with pytest.raises(SourceError, match="no names of classes"):
            hr.ingest(source, tmp_path / "out", samples=hr.Samples())
    root = tmp_path / "root"
    yolo(root / "valid", {}, lines)
    (root / "data.yaml").write_text("names: [car]\n")
    with pytest.raises(SourceError, match="give one of its folders: valid"):
        hr.ingest(root, tmp_path / "out", samples=hr.Samples())
    assert hr.ingest(root / "valid", tmp_path / "out", samples=hr.Samples()).documents == 2


def test_a_box_without_area_and_an_image_that_is_missing_are_rejects(tmp_path):
    source = voc(tmp_path)
    text = (source / "a.xml").read_text()
    (source / "a.xml").write_text(text.replace("<xmax>10<", "<xmax>1<"))
    (source / "b.jpg").unlink()
    (source / "c.xml").write_text("<annotation><!DOCTYPE x>")
    everything = hr.JobOptions(max_reject_share=1)
    with pytest.raises(DocumentError, match="3 of 3 rows are bad"):
        hr.ingest(source, tmp_path / "none", samples=hr.Samples(), job=everything)
    with pytest.raises(DocumentError, match=r"a\.jpg: box .*expected x0 < x1"):
        hr.ingest(source, tmp_path / "out", samples=hr.Samples())


def test_masks_beside_their_images(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for i in range(30):
        (tmp_path / f"in/images/{i:02d}.jpg").write_bytes(jpeg(i))
        mask = np.full((20, 30), i, np.uint8)
        if i % 2:
            Image.fromarray(mask).save(tmp_path / f"in/masks/{i:02d}.tif")
        else:
            (tmp_path / f"in/masks/{i:02d}.png").write_bytes(encode_png(mask))
    (tmp_path / "in/masks/07.tif").unlink()
    summary = hr.ingest(tmp_path / "in", tmp_path / "out", samples=hr.Samples())
    assert summary.rejects == {"bad_annotation": 1}
    store = hr.SampleStore.open(tmp_path / "out")
    loader = hr.Loader(
        store, batch_size=29, epochs=1, shuffle="none", image=hr.ImageTransform(size=8),
        output=hr.BatchOptions(framework="numpy"),
    )  # fmt: skip
    batch = next(loader)
    assert [int(mask.max()) for mask in batch["mask"]] == [i for i in range(30) if i != 7]


def test_mnist_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5)).astype(np.uint8)
    header = b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    labels = (np.arange(40) % 3).astype(np.uint8)
    data = b"\0\0\x08\x01" + np.array([40], ">u4").tobytes() + labels.tobytes()
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(data))
    hr.ingest(tmp_path, tmp_path / "out", samples=hr.Samples())
    store = hr.SampleStore.open(tmp_path / "out")
    assert (store.codec, len(store.features["label"].names)) == ("zstd", 3)
    assert np.array_equal(store.gather(range(40))["image"], pixels)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(data[:-1]))
    with pytest.raises(SourceError, match="damaged"):
        hr.ingest(tmp_path, tmp_path / "no", samples=hr.Samples(layout="idx"))


def test_the_bytes_do_not_depend_on_workers_or_kills(tmp_path):
    """One worker, two workers, and a job that is killed again and again make the same store."""
    source = folders(tmp_path / "in", 40)
    samples = hr.Samples(shard_bytes=4000)
    hr.ingest(source, tmp_path / "one", samples=samples, workers=1)
    summary = hr.ingest(source, tmp_path / "two", samples=samples, workers=2)
    assert summary.workers == 2
    assert files(tmp_path / "one") == files(tmp_path / "two")
    code = (
        "import sys, headrace as hr\n"
        f"hr.ingest({str(source)!r}, {str(tmp_path / 'killed')!r}, samples=hr.Samples(shard_bytes=4000), workers=1)\n"
    )
    units = tmp_path / "killed/.ingest/units"
    for goal in (1, 4):
        child = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        while child.poll() is None and (not units.is_dir() or len(list(units.glob("*.json"))) < goal):
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
    resumed = hr.ingest(source, tmp_path / "killed", samples=samples)
    assert files(tmp_path / "killed") == files(tmp_path / "one")
    assert resumed.units_resumed > 0 or "already" in str(resumed.notes)


def test_a_store_grows_by_other_sources_and_refuses_what_does_not_fit(tmp_path):
    first, second = folders(tmp_path / "a"), folders(tmp_path / "b", 6)
    out = tmp_path / "out"
    hr.ingest(first, out, samples=hr.Samples())
    again = hr.ingest(first, out, samples=hr.Samples())
    assert "already" in str(again.notes)
    with pytest.raises(ConfigError, match="already, made from other sources"):
        hr.ingest(second, out, samples=hr.Samples())
    grown = hr.ingest(second, out, samples=hr.Samples(), append=True)
    assert (grown.snapshot, len(hr.SampleStore.open(out))) == (2, 18)
    assert hr.ingest(second, out, samples=hr.Samples(), append=True).snapshot == 2
    (second / "cow").mkdir()
    (second / "cow/1.jpg").write_bytes(jpeg(99))
    with pytest.raises(ConfigError, match="its columns are"):
        hr.ingest(second, out, samples=hr.Samples(), append=True)
    replaced = hr.ingest(second, out, samples=hr.Samples(), restart=True)
    assert (replaced.snapshot, replaced.documents) == (1, 7)


def test_a_half_done_job_with_other_sources_is_refused(tmp_path):
    source = folders(tmp_path / "in", 40)
    (source / "cat/000.jpg").write_bytes(b"")
    strict = hr.JobOptions(strict=True)
    samples = hr.Samples(shard_bytes=4000)
    with pytest.raises(DocumentError):
        hr.ingest(source, tmp_path / "out", samples=samples, job=strict)
    (source / "cat/new.jpg").write_bytes(jpeg(1))
    with pytest.raises(ResumeError, match="half-done"):
        hr.ingest(source, tmp_path / "out", samples=samples)


@pytest.mark.parametrize(
    ("sources", "options", "words"),
    [
        (["none"], {}, "no such file"),
        ([], {}, "no sources"),
        (["s3://bucket/images"], {}, "local files"),
        (["in/cat/000.jpg"], {}, "of no layout"),
        (["in/cat/000.jpg"], {"layout": "folders"}, "one directory"),
        (["in"], {"layout": "coco"}, "no images in it"),
        (["in/cat"], {"layout": "voc"}, "no images in it"),
        (["in"], {"layout": "tar"}, "no images in it"),
        (["in"], {"layout": "table"}, "no images in it"),
    ],
)
def test_sources_that_cannot_be_read_are_named(tmp_path, monkeypatch, sources, options, words):
    folders(tmp_path / "in", 2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeadraceError, match=words):
        hr.ingest(sources, "out", samples=hr.Samples(**options))
    assert not (tmp_path / "out/manifest.json").exists()


def test_options_out_of_range_are_named(tmp_path):
    for options in ({"layout": "zip"}, {"shard_bytes": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            hr.Samples(**options)
    with pytest.raises(ConfigError, match="distribute"):
        hr.ingest(folders(tmp_path), tmp_path / "out", samples=hr.Samples(), distribute="ray")
    with pytest.raises(TypeError, match="restrat"):
        hr.ingest("x", "y", restrat=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"operators": hr.OperatorOptions(dedup="exact")}, "dedup"),
        ({"fields": hr.FieldOptions(text_field="body")}, "text_field"),
        ({"tokenizer": "gpt2"}, "tokenizer"),
        ({"job": hr.JobOptions(skip_damaged=True)}, "skip_damaged"),
        ({"job": hr.JobOptions(block_tokens=512)}, "block_tokens"),
    ],
)
def test_options_of_text_are_refused_for_samples(tmp_path, options, named):
    source = folders(tmp_path / "in", 2)
    with pytest.raises(ConfigError, match=f"these options are of text: {named}"):
        hr.ingest(source, tmp_path / "out", samples=hr.Samples(), **options)
    assert not (tmp_path / "out").exists()


def test_options_and_mixtures_of_the_other_kind_of_store_are_refused_by_name(tmp_path):
    hr.ingest(folders(tmp_path / "in", 2), tmp_path / "samples", samples=hr.Samples())
    (tmp_path / "a.txt").write_text("the river turns the wheel")
    hr.ingest(tmp_path / "a.txt", tmp_path / "tokens", workers=1)
    samples, tokens = hr.SampleStore.open(tmp_path / "samples"), hr.Store.open(tmp_path / "tokens")
    for image in (hr.ImageTransform(size=8), None):
        with pytest.raises(ConfigError, match=r"image: not an option of stores of tokens.*SampleStore\.open"):
            hr.Loader(tokens, seq_len=8, batch_size=1, image=image)
    with pytest.raises(ConfigError, match="seq_len and packing: not an option of stores of samples"):
        hr.Loader(samples, seq_len=8, packing="best_fit", batch_size=1)
    with pytest.raises(ConfigError, match="is a store of samples: a mixture is of stores of tokens"):
        hr.mix({tokens: 0.5, samples: 0.5})


@pytest.mark.parametrize("option", ["image_field", "label_field"])
def test_names_of_columns_are_refused_where_there_are_none(tmp_path, capsys, option):
    source = folders(tmp_path / "in", 2)
    with pytest.raises(ConfigError, match=f"{option}: not an option of layout folders"):
        hr.ingest(source, tmp_path / "out", samples=hr.Samples(**{option: "x"}))
    flag = f"--{option.replace('_', '-')}"
    assert main(["ingest", str(source), "--samples", "--out", str(tmp_path / "out"), flag, "x"]) == 2
    assert "not an option of layout folders" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text("path,label\nin/cat/000.jpg,1\n")
    pq.write_table(pa.table({"image": [jpeg(0)], "label": [1]}), tmp_path / "a.parquet")
    for file in ("list.csv", "a.parquet"):
        with pytest.raises(SourceError, match=r"no column 'x'.*the columns are"):
            hr.ingest(tmp_path / file, tmp_path / "out", samples=hr.Samples(**{option: "x"}))
    assert not (tmp_path / "out").exists()


def test_commands_for_tokens_say_what_reads_a_store_of_samples(tmp_path, capsys):
    hr.ingest(folders(tmp_path / "in", 2), tmp_path / "samples", samples=hr.Samples())
    assert main(["train", str(tmp_path / "samples"), "--out", str(tmp_path / "run"), "--steps", "1"]) == 2
    error = capsys.readouterr().err
    assert "headrace.Loader in a loop of your own" in error
    assert "train, diagnose and generate take stores of tokens" in error
