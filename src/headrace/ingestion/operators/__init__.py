"""Documents -> documents: what people do to text before training. Nothing of it happens unless asked for.

In the order in which documents meet them:

    normalise   NFC, line ends                      filters     length, symbols, repetition
    sample      a share of the documents            exact       the first of equal documents
    minhash     the first of near-equal documents   split       some documents to a second store

Each decides about a document by its text alone, or by all documents in the order of the sources: never by
which worker met it when.
"""
