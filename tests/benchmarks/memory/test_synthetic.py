"""The synthetic vectors are what their description says, and the same each time."""

import numpy as np

from rar.benchmarks.memory.synthetic import Mixture

SMALL = Mixture(dim=256, intrinsic=64, clusters=40)


def entries(mixture: Mixture, count: int) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(mixture.entries(count))
    return np.concatenate([vectors for vectors, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def test_a_seed_gives_the_same_vectors_however_many_are_read() -> None:
    vectors, labels = entries(SMALL, 9000)
    again, same = entries(SMALL, 5000)
    assert vectors.dtype == np.float32
    assert (vectors.shape, labels.shape) == ((9000, 256), (9000,))
    np.testing.assert_array_equal(vectors[:5000], again)
    np.testing.assert_array_equal(labels[:5000], same)
    other, _ = entries(Mixture(dim=256, intrinsic=64, clusters=40, seed=1), 100)
    assert not np.allclose(other, vectors[:100])


def test_vectors_are_unit_and_queries_are_others() -> None:
    vectors, _ = entries(SMALL, 5000)
    queries = SMALL.queries(300)
    for found in (vectors, queries):
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (queries @ vectors.T).max() < 0.99


def test_a_cluster_s_vectors_are_near_each_other() -> None:
    vectors, labels = entries(SMALL, 5000)
    nearest = (SMALL.queries(200) @ vectors.T).argsort(1)[:, -10:]
    alike = np.mean([np.bincount(labels[row]).max() for row in nearest]) / 10
    assert alike > 0.9
    assert np.bincount(labels, minlength=40).min() > 0


def test_nearly_all_variance_lies_in_the_subspace_and_falls_within_it() -> None:
    vectors, _ = entries(SMALL, 5000)
    values = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    shares = np.cumsum(values) / values.sum()
    assert 0.93 < shares[63] < 0.99
    assert shares[255] - shares[63] > 0.01
    assert values[0] / values[50] > 2
