"""From AnnData to :class:`scvi.minibatch.Minibatch`: set-up, encoding, storage, checks."""
