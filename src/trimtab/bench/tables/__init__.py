"""Tables of methods on a user's own models and pairs: trained, answered, judged, written down."""
