import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objects.pose import SE3

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)

coordinate = st.floats(-10, 10, allow_nan=False)
vector = st.tuples(coordinate, coordinate, coordinate)
# Angles everywhere, and on purpose around the places where closed forms break down.
angle = st.one_of(
    st.floats(0, 3.1),
    st.sampled_from([0.0, 1e-12, 1e-8, 9e-4, 1e-3, 1.1e-3, 0.1, math.pi - 1e-4, math.pi - 1e-7, math.pi - 1e-10]),
)


@st.composite
def twists(draw):
    axis = torch.tensor(draw(vector), dtype=torch.float64) + torch.tensor([0.0, 0.0, 20.0])
    return torch.cat([torch.tensor(draw(vector), dtype=torch.float64), axis / axis.norm() * draw(angle)])


def twist_matrix(twist):
    """The 4x4 matrix of a twist, written out."""
    v, (x, y, z) = twist[:3], twist[3:].tolist()
    m = torch.zeros(4, 4, dtype=torch.float64)
    m[:3, :3] = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    m[:3, 3] = v
    return m


def close(a, b, tol=1e-9):
    torch.testing.assert_close(a.as_matrix(), b.as_matrix(), atol=tol, rtol=tol)


@PROPERTY
@given(twists())
def test_exp_equals_the_matrix_exponential(twist):
    expected = torch.linalg.matrix_exp(twist_matrix(twist))
    torch.testing.assert_close(SE3.exp(twist).as_matrix(), expected, atol=1e-10, rtol=1e-10)


@PROPERTY
@given(twists())
def test_log_inverts_exp(twist):
    # Near pi the axis is a difference of nearly equal numbers in no closed form; 1e-8 holds up to pi - 1e-10.
    torch.testing.assert_close(SE3.exp(twist).log(), twist, atol=1e-8, rtol=1e-8)


@PROPERTY
@given(twists(), st.floats(0.1, 10))
def test_exp_inverts_log_whatever_the_length_of_the_quaternion(twist, length):
    pose = SE3.exp(twist)
    for sign in (1, -1):
        close(SE3.exp(SE3(sign * length * pose.quat_wxyz, pose.translation).log()), pose, 1e-8)


@PROPERTY
@given(twists(), twists(), twists())
def test_poses_are_a_group(ta, tb, tc):
    a, b, c = SE3.exp(ta), SE3.exp(tb), SE3.exp(tc)
    close((a @ b) @ c, a @ (b @ c))
    close(a @ SE3.identity(), a)
    close(SE3.identity() @ a, a)
    close(a @ a.inverse(), SE3.identity())
    close(a.inverse() @ a, SE3.identity())
    close((a @ b).inverse(), b.inverse() @ a.inverse())


@PROPERTY
@given(twists(), twists(), vector)
def test_poses_act_on_points_as_their_matrices_do(ta, tb, p):
    a, b, p = SE3.exp(ta), SE3.exp(tb), torch.tensor(p, dtype=torch.float64)
    product = a.as_matrix() @ b.as_matrix() @ torch.cat([p, torch.ones(1, dtype=torch.float64)])
    torch.testing.assert_close((a @ b) @ p, product[:3], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(a @ (b @ p), product[:3], atol=1e-9, rtol=1e-9)


@PROPERTY
@given(twists())
def test_from_matrix_inverts_as_matrix(twist):
    pose = SE3.exp(twist)
    back = SE3.from_matrix(pose.as_matrix())
    close(back, pose)
    assert abs(float(back.quat_wxyz.norm()) - 1) < 1e-12


@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1, 0], [-1.0, 2, 3]])
@pytest.mark.parametrize("angle_rad", [math.pi, math.pi - 1e-9, -math.pi, 1.0])
def test_from_matrix_and_log_are_right_at_half_turns(axis, angle_rad):
    pose = SE3.from_axis_angle(axis, angle_rad)
    close(SE3.from_matrix(pose.as_matrix()), pose, 1e-8)
    close(SE3.exp(pose.log()), pose, 1e-8)
    assert float(pose.log()[3:].norm()) <= math.pi + 1e-12


def test_rotation_is_right_handed():
    quarter = SE3.from_axis_angle([0.0, 0, 2], math.pi / 2)
    expected = torch.tensor([0.0, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(quarter @ torch.tensor([1.0, 0, 0], dtype=torch.float64), expected, atol=1e-15, rtol=0)


@settings(PROPERTY, max_examples=15)
@given(twists(), vector)
def test_gradients_equal_finite_differences(twist, p):
    p = torch.tensor(p, dtype=torch.float64)

    def action(t):
        return SE3.exp(t) @ p

    def there_and_back(t):
        return SE3.exp(t).log()

    check = torch.autograd.gradcheck
    assert check(action, twist.clone().requires_grad_(), eps=1e-7, atol=2e-4, rtol=1e-4)
    if twist[3:].norm() < 3.1:
        assert check(there_and_back, twist.clone().requires_grad_(), eps=1e-7, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-8, 1e-4])
def test_gradients_are_finite_and_right_near_the_identity(size):
    twist = torch.full((6,), size, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda t: SE3.exp(t).log(), twist)
    torch.testing.assert_close(jacobian, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)


def test_batches_broadcast_over_poses_and_points():
    generator = torch.Generator().manual_seed(0)
    a = SE3.exp(torch.randn(4, 1, 6, generator=generator, dtype=torch.float64))
    b = SE3.exp(torch.randn(5, 6, generator=generator, dtype=torch.float64))
    p = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    both = a @ b
    assert both.as_matrix().shape == (4, 5, 4, 4)
    for i in range(4):
        for j in range(5):
            close(both[i, j], a[i, 0] @ b[j])
            torch.testing.assert_close((a @ p)[i, j], a[i, 0] @ p[j])
            torch.testing.assert_close(
                a.interpolate(b, 0.3)[i, j].as_matrix(), a[i, 0].interpolate(b[j], 0.3).as_matrix()
            )
    close(SE3.stack([b[0], b[3]]), SE3(b.quat_wxyz[[0, 3]], b.translation[[0, 3]]))


@PROPERTY
@given(twists(), twists())
def test_interpolation_starts_and_ends_at_its_poses(ta, tb):
    a, b = SE3.exp(ta), SE3.exp(tb)
    close(a.interpolate(b, 0.0), a, 1e-8)
    close(a.interpolate(b, 1.0), b, 1e-8)


def test_interpolation_turns_evenly_along_the_shorter_arc():
    a, b = SE3.from_axis_angle([0.0, 0, 1], 0.2), SE3.from_axis_angle([0.0, 0, 1], 0.2 - 2 * math.pi + 1.0)
    b = SE3(b.quat_wxyz, torch.tensor([2.0, 0, 4], dtype=torch.float64))
    middle = a.interpolate(b, 0.5)
    close(SE3(middle.quat_wxyz, torch.zeros(3, dtype=torch.float64)), SE3.from_axis_angle([0.0, 0, 1], 0.7), 1e-12)
    assert middle.translation.tolist() == [1.0, 0.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_operation_keeps_the_floating_point_type(dtype):
    a = SE3.exp(torch.tensor([1.0, 2, 3, 0.1, 0.2, 0.3], dtype=dtype))
    for pose in (
        a,
        a @ a,
        a.inverse(),
        a.interpolate(a, 0.5),
        SE3.from_matrix(a.as_matrix()),
        SE3.identity(dtype=dtype),
    ):
        assert pose.quat_wxyz.dtype == pose.translation.dtype == pose.log().dtype == dtype


def _bad_matrix(change):
    m = torch.eye(4, dtype=torch.float64)
    change(m)
    return m


@pytest.mark.parametrize(
    "matrix",
    [
        _bad_matrix(lambda m: m[:3, :3].mul_(1.1)),
        _bad_matrix(lambda m: m[0, 1].add_(0.1)),
        _bad_matrix(lambda m: m[0, 0].neg_()),
        _bad_matrix(lambda m: m[3, 0].add_(0.1)),
        _bad_matrix(lambda m: m[0, 3].fill_(math.nan)),
        torch.eye(3),
    ],
    ids=["scale", "shear", "mirror", "last row", "nan", "3x3"],
)
def test_from_matrix_refuses_what_is_not_rigid(matrix):
    with pytest.raises(ValueError, match="from_matrix"):
        SE3.from_matrix(matrix)


@pytest.mark.parametrize(
    ("quat", "translation"),
    [
        ([math.nan, 0, 0, 0], [0.0, 0, 0]),
        ([1.0, 0, 0, 0], [0.0, math.inf, 0]),
        ([0.0, 0, 0, 0], [0.0, 0, 0]),
        ([1.0, 0, 0], [0.0, 0, 0]),
        ([1.0, 0, 0, 0], [0.0, 0]),
    ],
)
def test_bad_numbers_are_refused(quat, translation):
    with pytest.raises(ValueError, match="SE3"):
        SE3(torch.tensor(quat), torch.tensor(translation))


def test_bad_axes_and_operands_are_refused():
    with pytest.raises(ValueError, match="axis"):
        SE3.from_axis_angle([0.0, 0, 0], 1.0)
    with pytest.raises(ValueError, match=r"shape \[..., 3\]"):
        _ = SE3.identity() @ torch.zeros(4)
