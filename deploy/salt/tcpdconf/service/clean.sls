{%- from "tcpdconf/map.jinja" import tcpdconf with context %}

{%- if tcpdconf.service.manager == "systemd" %}
tcpdconf-service-clean:
  service.dead:
    - name: tcpdconf
    - enable: false

{%-   for name in ("tcpdconf.service", "tcpdconf.service.d") %}

tcpdconf-service-clean-{{ name }}:
  file.absent:
    - name: /etc/systemd/system/{{ name }}
    - require:
      - service: tcpdconf-service-clean
{%-   endfor %}
{%- endif %}
