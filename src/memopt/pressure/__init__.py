"""When memory is short: probe, forecast, governor, admission, and who is suspected of a leak."""
