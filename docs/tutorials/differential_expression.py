"""
Differential expression
=======================

Which genes differ between two groups of cells, and how sure is that? One table answers three questions, and says which is
which. To see how far it can be trusted, the truth is planted here: some genes of one group lose a part of their counts, and
in a second comparison nothing differs at all.
"""

# %%
# Two groups with a known difference
# ----------------------------------
# The cells of one line in random halves. In *treated* every twentieth gene loses 60 % of its molecules. Cells of both halves
# come from all batches, but not in the same proportions: where the groups are unbalanced, batch effects look like differences.

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from scipy.stats import false_discovery_control, mannwhitneyu

import scvi
from scvi import plots

adata = scvi.demo.load()
adata = adata[:, np.ravel((adata.X > 0).mean(axis=0)) > 0.1].copy()
rng = np.random.default_rng(0)
is_drop = adata.obs["protocol"].to_numpy() == "Drop-seq"
treated = rng.random(adata.n_obs) < np.where(is_drop, 0.7, 0.3)
is_planted = np.arange(adata.n_vars) % 20 == 0
counts = adata.X.toarray()
places = np.ix_(treated, is_planted)
counts[places] = rng.binomial(counts[places], 0.4)
adata.X = sparse.csr_matrix(counts)
adata.obs["group"] = np.where(treated, "treated", "control")
print(adata.obs.groupby(["protocol", "group"], observed=True).size().unstack())

# %%
# Fit and ask
# -----------

scvi.SCVI.setup_anndata(adata, batch_key="batch")
model = scvi.SCVI(adata, gene_likelihood="nb", seed=0)
model.train(max_epochs=30, seed=0)
table = model.differential_expression(groupby="group", group1="treated", group2="control", seed=0)
table[["proba_de", "lfc_median", "lfc_data", "p_value", "p_adjusted", "p_residual"]].head().round(3)

# %%
# * ``proba_de``, ``lfc_median``: what the model learnt. A gene that differs by itself moves no cell in the latent space, so
#   this is the wrong column for our plant.
# * ``lfc_data``, ``p_value``, ``p_adjusted``: what differs in the counts, given library size and batch. The right column here.
# * ``p_residual``: what differs and the model does not expect.

planted = set(adata.var_names[is_planted])
called = set(table.index[table["p_adjusted"] < 0.05])
print(f"called: {len(called)}, planted: {len(planted)}, of these called: {len(called & planted)}")
print(f"share of false ones among the called: {len(called - planted) / max(len(called), 1):.3f}")
assert len(called & planted) > 0.5 * len(planted)
assert len(called - planted) < 0.15 * len(called)

# %%
# A volcano: planted genes on the left, above the others.

panel = plots.volcano(table, answer="data")

# %%
# A test that knows no batches
# ----------------------------
# Wilcoxon's test of log shares, gene by gene, takes what differs between technologies for a difference of the groups.

shares = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
p = np.array([mannwhitneyu(shares[treated, g], shares[~treated, g]).pvalue for g in range(adata.n_vars)])
wilcoxon = set(adata.var_names[false_discovery_control(p) < 0.05])
print(f"Wilcoxon calls {len(wilcoxon)} genes, {len(wilcoxon - planted) / len(wilcoxon):.0%} of them false")
assert len(wilcoxon - planted) > len(called - planted)

# %%
# Where nothing differs
# ---------------------
# The same cells, in two groups by the toss of a coin. Hardly any gene should be called, and p-values should be as frequent
# from 0 to .1 as from .9 to 1: the line is straight.

adata.obs["coin"] = np.where(rng.random(adata.n_obs) < 0.5, "heads", "tails")
nothing = model.differential_expression(groupby="coin", group1="heads", group2="tails", seed=0)
print("called:", int((nothing["p_adjusted"] < 0.05).sum()), "of", adata.n_vars)
figure, ax = plt.subplots(figsize=(4, 4))
ax.plot(np.linspace(0, 1, adata.n_vars), np.sort(nothing["p_value"].fillna(1)))
ax.plot([0, 1], [0, 1], color="grey", linewidth=1)
_ = ax.set(title="nothing differs", xlabel="expected p", ylabel="p_value")
assert (nothing["p_adjusted"] < 0.05).sum() < 0.02 * adata.n_vars

# %%
# Markers
# -------
# Each cell line against all others. A dot's size is the share of cells with the gene, its colour the change.

lines = model.differential_expression(groupby="cell_type", seed=0)
panel = plots.dot_plot(lines, n_genes=4)

# %%
# Cells of one donor are no replicates
# ------------------------------------
# With ``sample_key="donor"`` the unit of the test is the donor, and what it says holds for donors that were not measured. See
# :doc:`/differential-expression` for that, for groups that are confounded with batches, and for how good the tests are.
