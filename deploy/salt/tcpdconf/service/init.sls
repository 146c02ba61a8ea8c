include:
  - tcpdconf.service.running
