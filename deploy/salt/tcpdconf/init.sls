include:
  - tcpdconf.package
  - tcpdconf.config
  - tcpdconf.service
