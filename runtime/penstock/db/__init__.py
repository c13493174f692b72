"""Tables and every query; the only room that speaks SQLAlchemy."""
