include:
  - tcpdconf.service.clean
  - tcpdconf.config.clean
  - tcpdconf.package.clean
