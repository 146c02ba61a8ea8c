{%- from "tcpdconf/map.jinja" import tcpdconf with context %}

{%- if tcpdconf.package.install %}
tcpdconf-package-clean-venv:
  file.absent:
    - name: {{ tcpdconf.package.venv }}
{%- endif %}
