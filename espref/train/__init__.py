"""The four applications of ESP attention, trained on real data (extra ``train``): ``espref train``.

:mod:`espref.train.embedded` holds data that needs no download, :mod:`espref.train.paper` reads the paper's,
:mod:`espref.train.loop` trains one model, :mod:`espref.train.runs` several and compares them.
"""
