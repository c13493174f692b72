"""Alerts: rules on what happens in an environment, and messages when one fires or is resolved."""
