import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpz_jax.data.sources import fingerprint, from_arrays, load, to_channels
from gpz_jax.data.splits import Split, balanced_subset, full, limit, limit_source, make_splits
from gpz_jax.errors import UserError


def make_source(counts, *, name="made", channels=1, test_counts=None, aux=None, seed=0, **groups):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    test_labels = np.repeat(np.arange(len(counts)), [2] * len(counts) if test_counts is None else test_counts)
    return from_arrays(
        name,
        train_images=rng.integers(0, 256, (len(labels), 2, 2, channels), dtype=np.uint8),
        train_labels=labels,
        test_images=rng.integers(0, 256, (len(test_labels), 2, 2, channels), dtype=np.uint8),
        test_labels=test_labels,
        aux_images=aux,
        **groups,
    )


def counts_of(split, num_classes):
    return np.bincount(split.take()[1], minlength=num_classes)


@given(
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=6),
    validation=st.floats(0.13, 0.4),
    auxiliary=st.floats(0.13, 0.4),
    seed=st.integers(0, 2**32),
)
def test_parts_are_disjoint_complete_and_stratified(counts, validation, auxiliary, seed):
    source = make_source(counts)
    parts = make_splits(source, seed=seed, validation_fraction=validation, auxiliary_fraction=auxiliary)
    own = (parts.train, parts.validation, parts.auxiliary)
    together = np.concatenate([part.indices for part in own])
    np.testing.assert_array_equal(np.sort(together), np.arange(sum(counts)))
    fractions = (1 - validation - auxiliary, validation, auxiliary)
    for part, fraction in zip(own, fractions, strict=True):
        assert np.abs(counts_of(part, len(counts)) - fraction * np.array(counts)).max() <= 1 + 1e-9  # of 1 - 0.3 - 0.3
        assert part.images is source.train_images  # shared, not copied
        assert part.labels is source.train_labels
        assert part.indices.dtype == np.int32
    np.testing.assert_array_equal(parts.test.indices, np.arange(2 * len(counts)))
    assert parts.test.images is source.test_images
    assert parts.num_classes == len(counts)
    assert len(parts.notes) == (max(counts) > 1.5 * min(counts))


def test_the_seed_decides():
    source = load("digits")
    one, again, other = (make_splits(source, seed=s) for s in (0, 0, 1))
    for a, b, c in zip(one[:3], again[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        assert not np.array_equal(a.indices, c.indices)


def test_validation_is_the_same_whoever_attacks():
    source = make_source([20, 30])
    alone = make_splits(source, seed=3).validation
    other = make_splits(source, seed=3, auxiliary=make_source([20, 30], name="other", seed=1)).validation
    more = make_splits(source, seed=3, auxiliary_fraction=0.5).validation
    np.testing.assert_array_equal(alone.indices, other.indices)
    np.testing.assert_array_equal(alone.indices, more.indices)


def test_auxiliary_images_inside_the_source():
    aux = np.arange(5 * 9, dtype=np.uint8).reshape(5, 3, 3, 1)
    source = make_source([20, 30], aux=aux)
    parts = make_splits(source, seed=0, auxiliary_fraction=7.0)  # not used, so not checked
    assert parts.auxiliary.images is source.aux_images
    assert parts.auxiliary.labels is None
    assert parts.auxiliary.take()[1] is None
    np.testing.assert_array_equal(parts.auxiliary.take()[0], aux)
    assert len(parts.train) + len(parts.validation) == 50
    assert parts.notes == ()


def test_another_data_set_as_auxiliary():
    source, other = make_source([20, 30]), make_source([9, 9, 9], name="other", seed=1)
    parts = make_splits(source, seed=0, auxiliary=other)
    assert parts.auxiliary.images is other.train_images
    assert parts.auxiliary.labels is None
    assert len(parts.auxiliary) == 27
    assert len(parts.train) + len(parts.validation) == 50
    assert parts.notes == ()


@pytest.mark.parametrize(("ours", "theirs", "how"), [(3, 1, "grey repeated"), (1, 3, "luminance")])
def test_auxiliary_channels_are_converted_and_noted(ours, theirs, how):
    source = make_source([20, 30], channels=ours)
    other = make_source([9, 9], name="other", channels=theirs, seed=1)
    parts = make_splits(source, seed=0, auxiliary=other)
    np.testing.assert_array_equal(parts.auxiliary.images, to_channels(other.train_images, ours))
    assert parts.notes == (f"auxiliary 'other' converted from {theirs} to {ours} channels ({how})",)


def test_a_named_auxiliary_replaces_the_one_inside_and_says_so():
    source = make_source([20, 30], aux=np.zeros((5, 2, 2, 1), np.uint8))
    parts = make_splits(source, seed=0, auxiliary=make_source([9, 9], name="other", seed=1))
    assert len(parts.auxiliary) == 18
    assert parts.notes == ("the auxiliary images inside 'made' are not used, 'other' is",)


def test_a_data_set_is_not_its_own_auxiliary():
    source = make_source([20, 30])
    for auxiliary in (source, make_source([9, 9], seed=5)):
        with pytest.raises(UserError, match="'made' cannot be its own auxiliary"):
            make_splits(source, seed=0, auxiliary=auxiliary)


def test_an_auxiliary_that_shares_images_is_refused_with_their_number():
    source = make_source([20, 30])
    with pytest.raises(
        UserError, match="50 of the 50 images of auxiliary 'copy' are also in 'made': the attacker would"
    ):
        make_splits(source, seed=0, auxiliary=make_source([20, 30], name="copy"))
    for ours in (source.train_images, source.test_images):
        other = make_source([9, 9], name="other", seed=1)
        other.train_images[4] = ours[1]
        with pytest.raises(UserError, match="1 of the 18 images of auxiliary 'other' are also in 'made'"):
            make_splits(source, seed=0, auxiliary=other)


def test_many_images_may_not_hide_all_of_the_classifiers_among_them():
    source, other = make_source([20, 30]), make_source([3000, 3000], name="other", seed=1)
    other.train_images[100:150] = source.train_images  # 0.8 % of theirs, all of ours
    with pytest.raises(UserError, match="50 of the 6000 images"):
        make_splits(source, seed=0, auxiliary=other)


def test_a_few_images_in_common_are_left_out_and_said():
    source = make_source([200, 200], test_counts=[100, 110])
    other = make_source([150, 150], name="other", seed=1)
    other.train_images[[4, 7]] = source.train_images[3], source.test_images[1]
    parts = make_splits(source, seed=0, auxiliary=other)
    np.testing.assert_array_equal(parts.auxiliary.indices, np.delete(np.arange(300), [4, 7]))
    assert parts.notes == ("2 of the 300 images of auxiliary 'other' are also in 'made' and are left out",)


def test_images_are_compared_after_their_channels_are_converted():
    source, other = make_source([20, 30], channels=3), make_source([20, 30], name="other", seed=1)
    source.train_images[:] = to_channels(other.train_images, 3)
    with pytest.raises(UserError, match="50 of the 50 images of auxiliary 'other'"):
        make_splits(source, seed=0, auxiliary=other)


def test_auxiliary_images_inside_the_source_are_compared_too():
    source = make_source([20, 30])
    inside = make_source([20, 30], aux=source.train_images[5:8])
    with pytest.raises(UserError, match="3 of the 3 images of aux_images are also in 'made'"):
        make_splits(inside, seed=0)


def test_images_that_the_data_set_holds_twice_are_said_where_two_parties_have_them():
    source = make_source([200, 200])
    parts = make_splits(source, seed=0)
    first, theirs = parts.train.indices[0], parts.auxiliary.indices
    alike = theirs[source.train_labels[theirs] == source.train_labels[first]][:3]
    source.train_images[alike] = source.train_images[first]
    with pytest.raises(
        UserError, match=r"3 of the 100 auxiliary images of 'made' are others' too: 3 in train; .*copies"
    ):
        make_splits(source, seed=0)
    again = make_splits(source, seed=0, allow_copies=True)
    said = "3 of the 100 auxiliary images of 'made' are others' too: 3 in train (allowed by allow_copies)"
    assert again.notes == (said,)
    np.testing.assert_array_equal(again.auxiliary.indices, parts.auxiliary.indices)


def test_classes_of_different_size_are_said():
    (note,) = make_splits(make_source([20, 31, 25], test_counts=[2, 5, 3]), seed=0).notes
    assert note == (
        "the classes of 'made' are not balanced: 31 train images of class 1, 20 of class 0; always answering 1 has "
        "test accuracy 0.500"
    )


@given(small=st.integers(6, 14), validation=st.floats(0.01, 0.3), auxiliary=st.floats(0.01, 0.3))
def test_a_class_of_six_or_more_gives_two_images_to_every_part(small, validation, auxiliary):
    source = make_source([40, small])
    parts = make_splits(source, seed=0, validation_fraction=validation, auxiliary_fraction=auxiliary)
    assert all(counts_of(part, 2).min() >= 2 for part in parts[:3])
    assert counts_of(parts.validation, 2)[1] == max(2, round(validation * small))
    assert counts_of(parts.auxiliary, 2)[1] == max(2, round(auxiliary * small))


# Groups --------------------------------------------------------------------------------------------------------------


def people(sizes, labels):
    """A source in which person i has sizes[i] images; labels are of images."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(0).permutation(len(groups))
    test_labels = np.repeat(np.arange(labels.max() + 1), 2)
    source = from_arrays(
        "people",
        train_images=np.arange(len(groups), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2, 1),
        train_labels=labels[order],
        test_images=np.zeros((len(test_labels), 2, 2, 1), np.uint8),
        test_labels=test_labels,
        train_group=np.array([f"person {g}" for g in groups[order]]),
        test_group=np.full(len(test_labels), "another"),
    )
    return source, groups[order]


SIZES = st.lists(st.integers(1, 9), min_size=40, max_size=80)
SHARES = {"validation_fraction": 0.2, "auxiliary_fraction": 0.25}


def check_groups(source, groups, seed):
    """Deal, and check that nobody is in two parts and no image is lost; return the parts."""
    parts = make_splits(source, seed=seed, **SHARES)
    held = [set(groups[part.indices].tolist()) for part in parts[:3]]
    assert sum(map(len, held)) == len(set().union(*held)) == len(set(groups.tolist()))
    together = np.concatenate([part.indices for part in parts[:3]])
    np.testing.assert_array_equal(np.sort(together), np.arange(len(groups)))
    for one, other in zip(parts[:3], make_splits(source, seed=seed, **SHARES)[:3], strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        assert one.indices.dtype == np.int32
    return parts


@given(sizes=SIZES, seed=st.integers(0, 2**32))
def test_groups_of_one_label_are_dealt_whole_and_to_within_half_a_group(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)) % 2, sizes)
    source, groups = people(sizes, labels)
    parts = check_groups(source, groups, seed)
    largest = np.array([max(sizes[0::2]), max(sizes[1::2])])
    for part, fraction in ((parts.validation, 0.2), (parts.auxiliary, 0.25)):
        due = np.maximum(np.round(fraction * np.bincount(labels)), 2)
        assert (np.abs(counts_of(part, 2) - due) <= largest / 2).all()
    more = make_splits(source, seed=seed, validation_fraction=0.2, auxiliary_fraction=0.4)
    np.testing.assert_array_equal(parts.validation.indices, more.validation.indices)  # whatever the attacker gets


@given(sizes=SIZES, flips=st.integers(0, 2**32), seed=st.integers(0, 2**32))
def test_groups_of_several_labels_are_dealt_whole_and_near_to_the_fractions(sizes, flips, seed):
    labels = np.random.default_rng(flips).integers(0, 3, sum(sizes))
    parts = check_groups(*people(sizes, labels), seed)
    for part, fraction in ((parts.validation, 0.2), (parts.auxiliary, 0.25)):
        assert np.abs(counts_of(part, 3) - fraction * np.bincount(labels, minlength=3)).max() <= max(sizes)


def test_one_image_a_group_is_dealt_to_the_fractions_exactly():
    labels = np.repeat([0, 1], [60, 40])
    parts = check_groups(*people([1] * 100, labels), 0)
    assert [counts_of(part, 2).tolist() for part in parts[:3]] == [[33, 22], [12, 8], [15, 10]]


def test_the_seed_decides_who_of_the_people_goes_where():
    source, _ = people([3] * 60, np.repeat([0, 1], 90))
    one, other = (make_splits(source, seed=seed).validation for seed in (0, 1))
    assert not np.array_equal(one.indices, other.indices)


def test_a_class_of_a_single_person_cannot_be_shared():
    source, _ = people([2] * 20 + [30], np.repeat([0, 1], [40, 30]))
    with pytest.raises(UserError, match="class 1 of data set 'people' has no image in the validation split"):
        make_splits(source, seed=0)


def test_groups_are_part_of_the_data():
    plain = make_source([20, 30])
    groups = np.arange(50) // 2
    grouped = make_source([20, 30], train_group=groups)
    assert fingerprint(plain) != fingerprint(grouped)
    assert fingerprint(grouped) != fingerprint(make_source([20, 30], train_group=groups // 2))
    for renamed in (groups + 7, 9 - groups, np.array([f"p{g}" for g in groups]), groups.astype(np.uint8)):
        same = make_source([20, 30], train_group=renamed)  # whatever they are called
        assert fingerprint(grouped) == fingerprint(same)
        np.testing.assert_array_equal(make_splits(grouped, seed=0)[1].indices, make_splits(same, seed=0)[1].indices)
    limited = limit_source(grouped, 30, seed=0)
    kept = balanced_subset(full(grouped), 30, seed=0).indices
    np.testing.assert_array_equal(limited.train_group, grouped.train_group[kept])
    np.testing.assert_array_equal(limited.train_images, grouped.train_images[kept])


EACH = np.arange(50)
BAD_GROUPS = {
    "too few": ({"train_group": EACH[:49]}, r"train_group has the shape \(49,\) for 50 images; give one group per"),
    "2-D": ({"train_group": EACH[:, None]}, r"train_group has the shape \(50, 1\)"),
    "NaN": (
        {"train_group": np.where(EACH < 3, np.nan, EACH)},
        "holds 3 NaN; give every image a group, unknown ones one",
    ),
    "float": ({"train_group": EACH / 2}, "train_group has dtype float64; name groups by integers or strings"),
    "object": ({"train_group": EACH.astype(object)}, "train_group has dtype object"),
    "bool": ({"train_group": EACH > 3}, "train_group has dtype bool"),
    "test too few": ({"train_group": EACH, "test_group": EACH[:3]}, r"test_group has the shape \(3,\) for 4 images"),
    "two kinds": ({"train_group": EACH, "test_group": np.array(list("abcd"))}, "groups differently; use integers or"),
    "shared": ({"train_group": EACH, "test_group": np.array([50, 7, 8, 51])}, r"test share 2 of the groups \(7, for"),
    "shared text": (
        {"train_group": EACH.astype(str), "test_group": np.array(["50", "7", "8", "51"])},
        r"test share 2 of the groups \('7', for one\); keep all images of a group in one of them, or leave",
    ),
    "test only": ({"test_group": EACH[:4]}, "test_group is given but train_group is not, by which images are dealt"),
    "aux without images": ({"train_group": EACH, "aux_group": EACH}, "aux_group is given without images"),
}


@pytest.mark.parametrize(("groups", "message"), BAD_GROUPS.values(), ids=BAD_GROUPS)
def test_malformed_groups(groups, message):
    with pytest.raises(UserError, match=message) as error:
        make_source([20, 30], **groups)
    assert str(error.value).startswith("data set 'made': ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("whose", "which"), [([60, 61, 3], "train and aux"), ([60, 61, 71], "test and aux")])
def test_the_attackers_own_images_are_of_other_people(whose, which):
    aux = np.zeros((3, 2, 2, 1), np.uint8)
    test = np.arange(70, 74)
    with pytest.raises(UserError, match=f"{which} share 1 of the groups"):
        make_source([20, 30], aux=aux, train_group=EACH, test_group=test, aux_group=np.array(whose))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_lie_between_0_and_1(fraction):
    source = make_source([20, 30])
    with pytest.raises(UserError, match=f"validation_fraction is {fraction}; it must lie strictly between 0 and 1"):
        make_splits(source, seed=0, validation_fraction=fraction)
    with pytest.raises(UserError, match=f"auxiliary_fraction is {fraction}; it must lie"):
        make_splits(source, seed=0, auxiliary_fraction=fraction)


def test_fractions_leave_train_images():
    with pytest.raises(UserError, match=r"validation_fraction \+ auxiliary_fraction = 1 leaves no train images"):
        make_splits(make_source([20, 30]), seed=0, validation_fraction=0.5, auxiliary_fraction=0.5)


def test_negative_seeds():
    with pytest.raises(UserError, match="the split seed is -1; it must be 0 or more"):
        make_splits(make_source([20, 30]), seed=-1)
    with pytest.raises(UserError, match="the subset seed is -2; it must be 0 or more"):
        balanced_subset(full(make_source([20, 30])), 2, seed=-2)


def test_classes_too_small_for_a_part_are_named():
    with pytest.raises(
        UserError, match=r"class 1 of data set 'made' has only 1 image in the auxiliary split, .* raise"
    ):
        make_splits(make_source([40, 5]), seed=0, validation_fraction=0.45)
    with pytest.raises(UserError, match=r"class 0 \(and 1 more\) .* has no image in the validation split"):
        make_splits(make_source([4, 4]), seed=0)
    with pytest.raises(UserError, match=r"class 1 .* has no image in the train split, .* lower the fractions"):
        make_splits(make_source([900, 4]), seed=0, validation_fraction=0.49, auxiliary_fraction=0.5)
    with pytest.raises(UserError, match=r"class 1 .* has only 1 image in the test split, .* add test images"):
        make_splits(make_source([40, 40], test_counts=[2, 1]), seed=0)
    with pytest.raises(UserError, match=r"class 0 .* has no image in the test split"):
        make_splits(make_source([40, 40], test_counts=[0, 2]), seed=0)


def test_full_is_every_train_image():
    source = make_source([5, 6])
    images, labels = full(source).take()
    np.testing.assert_array_equal(images, source.train_images)
    np.testing.assert_array_equal(labels, source.train_labels)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=6), data=st.data())
def test_balanced_subset_is_as_equal_as_the_classes_allow(counts, data):
    split = full(make_source(counts))
    split = Split(split.images, split.labels, np.flatnonzero(np.arange(len(split)) % 3).astype(np.int32))
    size = data.draw(st.integers(1, len(split) + 3))
    seed = data.draw(st.integers(0, 5))
    subset = balanced_subset(split, size, seed=seed)
    assert len(subset) == min(size, len(split))
    assert len(set(subset.indices.tolist())) == len(subset)
    assert set(subset.indices.tolist()) <= set(split.indices.tolist())
    assert subset.images is split.images
    had, got = counts_of(split, len(counts)), counts_of(subset, len(counts))
    unfinished = got < had  # classes with images left are within one of the best-served class
    assert not unfinished.any() or got.max() - got[unfinished].min() <= 1
    np.testing.assert_array_equal(subset.indices, balanced_subset(split, size, seed=seed).indices)
    if size > 1:
        smaller = balanced_subset(split, size - 1, seed=seed)
        assert set(smaller.indices.tolist()) <= set(subset.indices.tolist())


def test_subset_depends_on_the_seed_and_works_without_labels():
    images = np.zeros((50, 2, 2, 1), np.uint8)
    split = Split(images, None, np.arange(10, 50, dtype=np.int32))
    one, other = (balanced_subset(split, 8, seed=s) for s in (0, 1))
    assert len(one) == len(other) == 8
    assert one.indices.min() >= 10
    assert one.labels is None
    assert not np.array_equal(one.indices, other.indices)


def test_limit():
    split = full(make_source([20, 30]))
    assert limit(split, None, seed=0) is split
    assert limit(split, 500, seed=0) is split
    np.testing.assert_array_equal(limit(split, 7, seed=1).indices, balanced_subset(split, 7, seed=1).indices)
    with pytest.raises(UserError, match="a subset of 0 images was asked for"):
        limit(split, 0, seed=0)
