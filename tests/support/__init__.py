"""Factories that tests share: places with access data, servers, services, consoles."""
