"""What a report may hold, in the order of the report. Kinds without a row come last, shown as they are."""

from cwr_mech.analysis.registry import shows
from cwr_mech.findings import show
from cwr_mech.render.shown import Shows

SHOWS: Shows = {**shows(), **show.SHOWS}
