"""Stored counts -> sparse rows, their products with matrices, and one check of every stored value (numba)."""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.compiler import CALLED_ONCE, OPTIONS, PART, PLAIN
from scvi.kernels.elementary import ZERO


@njit(**PLAIN)
def csr_rows(data, indices, indptr, n_stored, rows, block, columns, whole, starts, genes, values, kept, totals):
    """Copies what is not zero of ``rows[block[0]:block[1]]`` to `genes` and `values`, row i from ``starts[i]`` on.

    ``columns[j]`` is the new number of stored gene j, -1 leaves it out; an empty `columns` is the identity. Entries
    of one place are added up, and those of a row are in the order of genes. ``kept[i]`` and ``totals[i, 0]`` are set to
    the number of entries of row i and their sum; a negative number says that the row names a gene beyond `n_stored`.
    `whole`, (g,), are zeros to work with, one for each gene of the result.
    """
    mapped = columns.shape[0] > 0
    for i in range(block[0], block[1]):
        first = np.uintp(starts[i])
        n, last, is_sorted, total = first, np.int32(-1), True, 0.0
        for k in range(np.uintp(indptr[rows[i]]), np.uintp(indptr[rows[i] + 1])):
            if np.uintp(indices[k]) >= n_stored:  # a damaged matrix; compiled code would read and write anywhere
                kept[i] = -1
                break
            value = np.float32(data[k])
            j = columns[np.uintp(indices[k])] if mapped else np.int32(indices[k])
            genes[n] = j
            values[n] = value
            keep = (j >= 0) & (value != ZERO)
            is_sorted &= (j > last) | (not keep)
            last = j if keep else last
            n += np.uintp(keep)
            total += value if keep else ZERO
        else:
            n_kept = np.intp(n - first)
            if not is_sorted:  # only then may a gene have come twice
                n_kept = _sort(genes, values, np.intp(first), n_kept, whole)
            kept[i] = n_kept
            totals[i, 0] = total


@njit(**CALLED_ONCE)
def _sort(genes, values, first, n, whole):
    """Puts n entries from `first` on in the order of genes, one for each; returns how many that are.

    In one order, sums over them have the same bits however the matrix was stored. `whole` are zeros, one for each gene.
    """
    for e in range(first, first + n):
        whole[genes[e]] += values[e]
    end = first
    for j in range(whole.shape[0]):
        if whole[j] != ZERO:
            genes[end] = j
            values[end] = whole[j]
            whole[j] = ZERO
            end += 1
    return end - first


@njit(**PLAIN)
def count_nonzero(stored, rows, block, lengths):
    """Sets ``lengths[i]`` to the number of values of ``stored[rows[i]]`` that are not zero."""
    for i in range(block[0], block[1]):
        row, n = stored[rows[i]], 0
        for gene in range(row.shape[0]):
            n += row[gene] != 0
        lengths[i] = n


@njit(**PLAIN)
def dense_rows(stored, rows, block, columns, starts, genes, values, kept, totals):
    """As :func:`csr_rows` for a dense matrix; several stored genes may not share a column here."""
    mapped = columns.shape[0] > 0
    for i in range(block[0], block[1]):
        row, first, total = stored[rows[i]], np.uintp(starts[i]), 0.0
        n, end = first, np.uintp(starts[i + 1])  # the matrix is a user's, who may write into it meanwhile
        for gene in range(row.shape[0]):
            value = np.float32(row[gene])
            if value != ZERO:
                j = columns[gene] if mapped else gene
                if j >= 0 and n < end:
                    genes[n] = j
                    values[n] = value
                    n += np.uintp(1)
                    total += value
        kept[i] = np.intp(n - first)
        totals[i, 0] = total


@njit(**PLAIN)
def densify(starts, genes, values, block, out):
    """Writes rows ``block[0]:block[1]`` to the zeroed rows of `out`, (n, g)."""
    for i in range(block[0], block[1]):
        row = out[i]
        for e in range(np.uintp(starts[i]), np.uintp(starts[i + 1])):
            row[np.uintp(genes[e])] = values[e]


@njit(**PLAIN)
def digests(starts, genes, bits, block, out):
    """Writes to ``out[i]`` what tells row i from others: a sum over its entries, whatever their order.

    An entry is its gene and the `bits` of its value in one integer, mixed as in splitmix64 (Steele et al. 2014).
    """
    for i in range(block[0], block[1]):
        total = np.uint64(0)
        for e in range(np.uintp(starts[i]), np.uintp(starts[i + 1])):
            z = (np.uint64(genes[e]) << np.uint64(32)) | np.uint64(bits[e])
            z = (z + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total += z ^ (z >> np.uint64(31))
        out[i] = total


@njit(**PLAIN)
def first_bad_count(values):
    """Position of the first value that is no count, else -1."""
    for k in range(values.shape[0]):
        value = values[k]
        if not np.isfinite(value) or value < 0 or value != np.floor(value):
            return k
    return -1


@njit(**PLAIN)
def look_at_values(values):
    """Position of the first value that is negative or not finite, else -1; and as :class:`scvi.kernels.CountsLook`.

    With a value that is negative or not finite the rest is not looked at.
    """
    n_values, n_fractions, first_fraction = 0, 0, -1
    for k in range(values.shape[0]):
        value = values[k]
        if not np.isfinite(value) or value < 0:
            return k, n_values, n_fractions, first_fraction
        n_values += value != 0
        if value != np.floor(value):
            first_fraction = k if n_fractions == 0 else first_fraction
            n_fractions += 1
    return -1, n_values, n_fractions, first_fraction


@njit(**PLAIN)
def count_entries(starts, genes, rows, counts):
    """Adds to ``counts[j]`` how often gene j occurs in the rows."""
    for e in range(starts[rows[0]], starts[rows[1]]):
        counts[genes[e]] += 1


@njit(**PLAIN)
def transpose(starts, genes, values, rows, places, cells, by_gene):
    """Moves the entries of the rows to ``places[j]``, places[j] + 1, ... of `cells` and `by_gene`."""
    for i in range(rows[0], rows[1]):
        for e in range(starts[i], starts[i + 1]):
            place = places[genes[e]]
            places[genes[e]] = place + 1
            cells[place] = i
            by_gene[place] = values[e]


@njit(**PART)
def _add_rows(weights, at, matrix, out):
    """Adds ``sum(weights[k] * matrix[at[k]])`` to `out`."""
    k = np.uintp(0)  # unsigned: a signed index is looked at for being negative, every time
    four = np.uintp(4)
    end = np.uintp(weights.shape[0])
    while k + four <= end:  # each pass over `out` costs as much as a row
        a, b, c, d = weights[k], weights[k + np.uintp(1)], weights[k + np.uintp(2)], weights[k + np.uintp(3)]
        row_a, row_b = matrix[np.uintp(at[k])], matrix[np.uintp(at[k + np.uintp(1)])]
        row_c, row_d = matrix[np.uintp(at[k + np.uintp(2)])], matrix[np.uintp(at[k + np.uintp(3)])]
        for o in range(out.shape[0]):
            out[o] += a * row_a[o] + b * row_b[o] + (c * row_c[o] + d * row_d[o])
        k += four
    for e in range(k, end):
        a, row_a = weights[e], matrix[np.uintp(at[e])]
        for o in range(out.shape[0]):
            out[o] += a * row_a[o]


@njit(**OPTIONS)
def product(starts, genes, values, matrix, rows, out):
    """Adds rows ``rows[0]:rows[1]`` of sparse (n, g) times dense (g, h) to `out`, (n, h)."""
    for i in range(rows[0], rows[1]):
        first, last = starts[i], starts[i + 1]
        _add_rows(values[first:last], genes[first:last], matrix, out[i])


@njit(**OPTIONS)
def sum_by_gene(ends, cells, by_gene, matrix, block, out):
    """Writes genes ``block[0]:block[1]`` of the transposed sparse matrix times dense (n, h) to `out`, (g, h).

    Entries of gene j end before ``ends[j]`` and begin where those of the gene before end. By gene, because `matrix`
    stays in the fastest cache while `out` is written once from end to end.
    """
    for j in range(block[0], block[1]):
        first = ends[j - 1] if j > 0 else 0
        last = ends[j]
        out[j, :] = ZERO
        _add_rows(by_gene[first:last], cells[first:last], matrix, out[j])
