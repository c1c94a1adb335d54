"""Images listed in CSV files: what is read, and what is said of what cannot be."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitfw.data.reading.csv_file import csv_classes, read_csv, sorted_labels
from vitfw.errors import ConfigError


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def listed(split) -> list[tuple[str, str]]:
    images = split.images
    return [
        (images.open(i), split.classes[label]) for i, label in enumerate(images.labels.tolist())
    ]


# what is read


def test_one_file_is_training_images_with_paths_relative_to_its_folder(tmp_path):
    file = write(tmp_path / "list.csv", "path,label\na/1.jpg,dog\n/abs/2.jpg,cat\n3.jpg,dog\n")
    found = read_csv(file)
    assert list(found) == ["train"]
    assert found["train"].classes == csv_classes(file) == ("cat", "dog")
    expected = [(f"{tmp_path}/a/1.jpg", "dog"), ("/abs/2.jpg", "cat"), (f"{tmp_path}/3.jpg", "dog")]
    assert listed(found["train"]) == expected


def test_a_folder_holds_a_file_a_split(tmp_path):
    write(tmp_path / "train.csv", "path,label\n1.jpg,a\n2.jpg,b\n")
    write(tmp_path / "val.csv", "label,path\nb,3.jpg\n")
    write(tmp_path / "test.csv", "path,label\n4.jpg,a\n5.jpg,a\n")
    found = read_csv(tmp_path)
    assert {split: len(found[split].images) for split in found} == {"train": 2, "val": 1, "test": 2}
    assert listed(found["val"]) == [(f"{tmp_path}/3.jpg", "b")]
    assert all(split.classes == ("a", "b") for split in found.values())


def test_a_column_split_divides_one_file(tmp_path):
    rows = "path,label,split\n1.jpg,a,train\n2.jpg,a,validation\n3.jpg,a,Test\n4.jpg,b,train\n"
    found = read_csv(write(tmp_path / "x.csv", rows))
    assert [Path(p).name for p, _ in listed(found["train"])] == ["1.jpg", "4.jpg"]
    assert [Path(p).name for p, _ in listed(found["val"])] == ["2.jpg"]
    assert [Path(p).name for p, _ in listed(found["test"])] == ["3.jpg"]


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_lone_val_is_the_test_set(tmp_path, form):
    if form == "folder":
        write(tmp_path / "train.csv", "path,label\n1.jpg,a\n")
        write(tmp_path / "val.csv", "path,label\n2.jpg,a\n")
        root = tmp_path
    else:
        root = write(tmp_path / "x.csv", "path,label,split\n1.jpg,a,train\n2.jpg,a,val\n")
    found = read_csv(root)
    assert set(found) == {"train", "test"}
    assert listed(found["test"]) == [(f"{tmp_path}/2.jpg", "a")]


def test_whole_numbers_are_sorted_by_value_and_anything_else_by_name(tmp_path):
    numbers = write(tmp_path / "n.csv", "path,label\n1.jpg,10\n2.jpg,9\n3.jpg,-1\n")
    names = write(tmp_path / "s.csv", "path,label\n1.jpg,10\n2.jpg,9\n3.jpg,x\n")
    assert csv_classes(numbers) == ("-1", "9", "10")
    assert csv_classes(names) == ("10", "9", "x")


def test_other_columns_can_be_named_and_the_rest_is_passed_over(tmp_path):
    file = write(tmp_path / "x.csv", "id,file,species,label\n1,a.png,crow,0\n")
    assert listed(read_csv(file, ("file", "species"))["train"]) == [(f"{tmp_path}/a.png", "crow")]
    assert csv_classes(file, ["file", "species"]) == ("crow",)


def test_a_file_as_excel_saves_it_is_read(tmp_path):
    file = tmp_path / "x.csv"
    file.write_bytes('\ufeffpath,label\r\n"a, b.jpg","say ""cheese"""\r\n'.encode())
    assert listed(read_csv(file)["train"]) == [(f"{tmp_path}/a, b.jpg", 'say "cheese"')]


printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1)


@given(rows=st.lists(st.tuples(printable, printable), min_size=1, max_size=8))
def test_whatever_the_csv_module_writes_is_read_back(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "written.csv"
    with open(file, "w", newline="", encoding="utf-8") as sink:
        csv.writer(sink).writerows([("path", "label"), *rows])
    expected = [(str(file.parent / path), label) for path, label in rows]
    assert listed(read_csv(file)["train"]) == expected


# what is said


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is empty; its first row should be path,label"),
        ("path,label\n", "no rows of training images"),
        ("path,lable\n1.jpg,a\n", "no column 'label', only 'path', 'lable'; did you mean lable"),
        ("1.jpg,a\n2.jpg,b\n", "no column 'path', only '1.jpg', 'a'"),
        ("path,label\n1.jpg,\n", "line 2: the column 'label' is empty"),
        ("path,label\n1.jpg,a\n,b\n", "line 3: the column 'path' is empty"),
        ("path,label\n1.jpg\n", "line 2: the column 'label' is empty"),
        ("path,label,split\n1.jpg,a,trian\n", "line 2: 'trian' is no split"),
        ("path,label,split\n1.jpg,a\n", "line 2: None is no split"),
        ("path,label,split\n1.jpg,a,test\n", "no rows of training images"),
        (
            "path,label,split\n1.jpg,cat,train\n2.jpg,cats,test\n",
            "the class 'cats' is in the test split, but no training image has it; did you mean cat",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, text, said):
    file = write(tmp_path / "x.csv", text)
    with pytest.raises(ConfigError) as caught:
        read_csv(file)
    assert said in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_was_expected(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.csv cannot be read: No such file.*path,label"):
        read_csv(tmp_path / "nowhere.csv")
    with pytest.raises(ConfigError, match=r"expected .*/train\.csv"):
        read_csv(tmp_path)


def test_a_split_of_a_folder_without_rows_is_named(tmp_path):
    write(tmp_path / "train.csv", "path,label\n1.jpg,a\n")
    write(tmp_path / "test.csv", "path,label\n")
    with pytest.raises(ConfigError, match=r"test\.csv has no rows below the names of its columns"):
        read_csv(tmp_path)


def test_a_picture_given_instead_of_a_table_is_no_csv(tmp_path):
    (tmp_path / "x.csv").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(ConfigError, match=r"x\.csv"):
        read_csv(tmp_path / "x.csv")


def test_columns_must_be_two(tmp_path):
    file = write(tmp_path / "x.csv", "path,label\n1.jpg,a\n")
    with pytest.raises(ConfigError, match=r"data\.columns=\['path'\] must be two"):
        read_csv(file, ["path"])


def test_numbers_that_are_equal_and_written_differently_have_one_order():
    for labels in (["1", "01", "2"], ["2", "01", "1"]):
        assert sorted_labels(labels) == ("01", "1", "2")
