"""The four applications of ESP attention, trained on real data (extra ``train``): ``espref train``.

:mod:`espref.train.embedded` holds the data that needs no download, :mod:`espref.train.paper` reads the paper's data,
:mod:`espref.train.loop` trains one model, :mod:`espref.train.runs` trains several and compares them, and
:mod:`espref.train.studies` lists the comparisons whose results are recorded.
"""
