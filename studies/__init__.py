"""Every number and figure of docs/results.md: what is measured, how it is drawn and written up.

    python -m studies.vega STUDY      measure; writes docs/results/STUDY.json and pictures
    python -m studies.mutual STUDY    the same for mutual supervision: mutual_STUDY.json
    python -m studies.results         docs/results.md and its charts from those files

The package never imports this folder.
"""
