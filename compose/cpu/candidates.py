"""From the tree to the candidates of a ray: each instance whose box it meets marches its cells, nearest first.

A packet of neighbouring rays walks the tree once, where they go about the same way.
"""

from __future__ import annotations

import numpy as np

from compose.cpu.bvh import EMPTY, INNER, box_span, inverse
from compose.cpu.inlined import inlined
from compose.cpu.kernels import to_object, turn_to_object
from compose.cpu.march import march, put, row_of


@inlined
def _node_enter(tree, node, ox, oy, oz, ix, iy, iz, t_min, t_max):
    """Where a ray enters a node's box, inf for a miss. Boxes are a hair wider than exact, far more than products with inverses
    are off."""
    enter, leave = box_span(tree.lo, tree.hi, node, ox, oy, oz, ix, iy, iz, t_min, t_max)
    return enter if enter <= leave else np.inf


@inlined
def _try(scene, query, ray, i, certain_t, found, k, count):
    """The candidates of one instance; returns the end of a certain one, or inf."""
    transforms, a = scene.transforms, scene.transforms.asset[i]
    px, py, pz = to_object(transforms, i, query.origins[ray, 0], query.origins[ray, 1], query.origins[ray, 2])
    qx, qy, qz = turn_to_object(
        transforms, i, query.directions[ray, 0], query.directions[ray, 1], query.directions[ray, 2]
    )
    enter, leave = box_span(
        transforms.box_lo, transforms.box_hi, a, px, py, pz, inverse(qx), inverse(qy), inverse(qz), query.t_min[ray],
        query.t_max[ray],
    )  # fmt: skip
    if enter >= leave or enter > certain_t:
        return np.inf
    return march(
        scene.cells, a, transforms, px, py, pz, qx, qy, qz, enter, leave, certain_t, query.widen, found, k, count, i
    )


@inlined
def candidates_of_ray(scene, query, ray, found, k, count, stay, n_leaves):
    """Candidates of a ray up to the end of its first certain one, nearest boxes first, into row ``k``. Returns whether the ray is
    known to be blocked (``any_hit`` only).

    It tries the ``n_leaves`` leaves that its packet may meet, which are sorted by the least ``t`` at which any ray of it
    may; where there is no such list (-1), it walks the tree.
    """
    tree, stack, stack_t = scene.tree, stay.stack, stay.stack_t
    ox, oy, oz = query.origins[ray, 0], query.origins[ray, 1], query.origins[ray, 2]
    ix = inverse(query.directions[ray, 0])
    iy = inverse(query.directions[ray, 1])
    iz = inverse(query.directions[ray, 2])
    t_min, certain_t = query.t_min[ray], query.t_max[ray]
    listed, top = 0, 0
    count[k] = 0
    if n_leaves < 0:
        enter = _node_enter(tree, 1, ox, oy, oz, ix, iy, iz, t_min, certain_t)
        if enter < np.inf:
            stack[0], stack_t[0], top = 1, enter, 1
    while True:
        if n_leaves >= 0:
            if listed == n_leaves or stay.leaf_t[listed] > certain_t:
                return False
            node = stay.leaves[listed]
            listed += 1
            if _node_enter(tree, node, ox, oy, oz, ix, iy, iz, t_min, certain_t) == np.inf:
                continue
        else:
            if top == 0:
                return False
            top -= 1
            node = stack[top]
            if stack_t[top] > certain_t:
                continue
            if tree.instance[node] == INNER:
                near, far = 2 * node, 2 * node + 1
                t_near = _node_enter(tree, near, ox, oy, oz, ix, iy, iz, t_min, certain_t)
                t_far = _node_enter(tree, far, ox, oy, oz, ix, iy, iz, t_min, certain_t)
                if t_far < t_near:
                    near, far, t_near, t_far = far, near, t_far, t_near
                if t_far < np.inf:
                    stack[top], stack_t[top] = far, t_far
                    top += 1
                if t_near < np.inf:
                    stack[top], stack_t[top] = near, t_near
                    top += 1
                continue
            if tree.instance[node] == EMPTY:
                continue
        end = _try(scene, query, ray, tree.instance[node], certain_t, found, k, count)
        certain_t = min(certain_t, end)
        if query.any_hit and end < np.inf:
            return True


@inlined
def leaves_of_packet(tree, query, first, last, stack, leaves, leaf_t, bounds):
    """Leaves that any of the rays ``first`` up to before ``last`` may meet, sorted; -1 where there are too many to be worth it.

    Along the packet's main axis all rays go the same way; over a stretch of it their other two coordinates stay between
    lines whose slopes and starts are the extreme ones of the packet. ``bounds [12]`` is room.
    """
    axis = 0
    for c in range(3):
        if abs(query.directions[first, c]) > abs(query.directions[first, axis]):
            axis = c
    way = 1.0 if query.directions[first, axis] > 0 else -1.0
    lo_o, hi_o, lo_s, hi_s = 0, 3, 6, 9  # extreme origins and slopes
    for c in range(3):
        bounds[lo_o + c], bounds[hi_o + c], bounds[lo_s + c], bounds[hi_s + c] = np.inf, -np.inf, np.inf, -np.inf
    fastest, t_min = 0.0, np.inf
    for ray in range(first, last):
        along = way * query.directions[ray, axis]
        if along < 0.3:
            return -1
        fastest, t_min = max(fastest, along), min(t_min, query.t_min[ray])
        for c in range(3):
            slope = query.directions[ray, c] / along
            bounds[lo_o + c] = min(bounds[lo_o + c], query.origins[ray, c])
            bounds[hi_o + c] = max(bounds[hi_o + c], query.origins[ray, c])
            bounds[lo_s + c] = min(bounds[lo_s + c], slope)
            bounds[hi_s + c] = max(bounds[hi_s + c], slope)
    if t_min < 0.0:  # some look behind themselves
        return -1
    n, top = 0, 1
    stack[0] = 1
    while top > 0:
        top -= 1
        node = stack[top]
        if tree.instance[node] == EMPTY:
            continue
        # How far along the axis the box begins and ends, for the ray that starts nearest and the one that starts farthest.
        if way > 0:
            near, far = tree.lo[node, axis] - bounds[hi_o + axis], tree.hi[node, axis] - bounds[lo_o + axis]
        else:
            near, far = bounds[lo_o + axis] - tree.hi[node, axis], bounds[hi_o + axis] - tree.lo[node, axis]
        if far < 0.0:
            continue
        near = max(near, 0.0)
        met = True
        for c in range(3):
            if c != axis:
                lo = bounds[lo_o + c] + min(bounds[lo_s + c] * near, bounds[lo_s + c] * far)
                hi = bounds[hi_o + c] + max(bounds[hi_s + c] * near, bounds[hi_s + c] * far)
                margin = 1e-9 * (abs(lo) + abs(hi))
                met = met and hi + margin >= tree.lo[node, c] and lo - margin <= tree.hi[node, c]
        if not met:
            continue
        if tree.instance[node] == INNER:
            stack[top], stack[top + 1] = 2 * node, 2 * node + 1
            top += 2
            continue
        if n == len(leaves):
            return -1
        t = max(near / fastest, t_min) if near > 0.0 else t_min
        place = n
        while place > 0 and leaf_t[place - 1] > t:
            leaves[place], leaf_t[place] = leaves[place - 1], leaf_t[place - 1]
            place -= 1
        leaves[place], leaf_t[place] = node, t
        n += 1
    return n


@inlined
def sort_and_part(scene, candidates, k, n, rest, ray, n_rest, certain_t):
    """Sorts row ``k`` by where its candidates begin; those of assets without packed networks go to ``rest``. Returns how
    many stay."""
    stay = 0
    for c in range(n):
        ta, i = candidates.ta[k, c], candidates.instance[k, c]
        if ta > certain_t:  # behind the end of a certain one
            continue
        row = row_of(candidates, k, c)
        if scene.nets.at[scene.transforms.asset[i]] < 0:
            put(rest, ray, n_rest[ray], ta, row, i)
            n_rest[ray] += 1
            continue
        place = stay
        while place > 0 and candidates.ta[k, place - 1] > ta:
            put(
                candidates,
                k,
                place,
                candidates.ta[k, place - 1],
                row_of(candidates, k, place - 1),
                candidates.instance[k, place - 1],
            )
            place -= 1
        put(candidates, k, place, ta, row, i)
        stay += 1
    return stay
