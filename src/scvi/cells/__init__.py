"""From an AnnData to minibatches: declare what a model reads, encode it, slice it.

``declare`` -> ``Schema`` -> ``encode`` -> ``CellData`` -> ``minibatch`` -> ``Minibatch``
"""
