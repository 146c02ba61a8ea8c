{%- from "tcpdconf/map.jinja" import tcpdconf with context %}

{%- if tcpdconf.package.install and tcpdconf.package.deb %}
tcpdconf-package-clean-deb:
  cmd.run:
    - name: apt-get purge --yes tcpdconf
    - onlyif: dpkg-query --show tcpdconf
  file.absent:
    - name: /var/cache/tcpdconf.deb
{%- elif tcpdconf.package.install %}
tcpdconf-package-clean-venv:
  file.absent:
    - name: {{ tcpdconf.package.venv }}
{%- endif %}
