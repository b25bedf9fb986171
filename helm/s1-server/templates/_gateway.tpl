{{- /* The gateway's container, alone in a pod or beside an engine. Call with (dict "root" $ "urls" "…"). */ -}}
{{- define "s1.gatewayContainer" -}}
{{- $root := .root -}}
{{- $gateway := .root.Values.gateway -}}
{{- $auth := .root.Values.auth -}}
{{- $elsewhere := dict "host" "the pod" "port" "the pod" "engine_urls" "engines" "keys_file" "auth.existingSecret" "insecure_no_auth" "auth.insecureNoAuth" "policy_file" "policy.existingConfigMap" "redis_url" "redis.existingSecret" "drain_delay_s" "gateway.drain.delaySeconds" "drain_timeout_s" "gateway.drain.timeoutSeconds" -}}
{{- range $name, $_ := $gateway.settings -}}
{{- if hasKey $elsewhere $name -}}
{{- fail (printf "gateway.settings.%s can't be given: it follows from %s" $name (get $elsewhere $name)) -}}
{{- end -}}
{{- end -}}
{{- range $gateway.env -}}
{{- $name := trimPrefix "S1_GATEWAY_" .name | lower -}}
{{- if and (hasPrefix "S1_GATEWAY_" .name) (hasKey $elsewhere $name) -}}
{{- fail (printf "gateway.env: %s can't be given: it follows from %s" .name (get $elsewhere $name)) -}}
{{- else if and (hasPrefix "S1_GATEWAY_" .name) (hasKey $gateway.settings $name) -}}
{{- fail (printf "gateway.env: %s is given twice: gateway.settings.%s is there, too" .name $name) -}}
{{- end -}}
{{- end }}
name: gateway
image: {{ include "s1.image" (dict "image" $gateway.image "root" $root) }}
imagePullPolicy: {{ $gateway.image.pullPolicy }}
args: [serve, --host, 0.0.0.0, --port, "8000"]
env:
  - name: S1_GATEWAY_ENGINE_URLS
    value: {{ .urls | quote }}
  - name: S1_GATEWAY_DRAIN_DELAY_S
    value: {{ include "s1.scalar" $gateway.drain.delaySeconds | quote }}
  - name: S1_GATEWAY_DRAIN_TIMEOUT_S
    value: {{ include "s1.scalar" $gateway.drain.timeoutSeconds | quote }}
  {{- if $auth.insecureNoAuth }}
  - name: S1_GATEWAY_INSECURE_NO_AUTH
    value: "true"
  {{- else }}
  - name: S1_GATEWAY_KEYS_FILE
    value: /etc/s1/keys/{{ $auth.key }}
  {{- end }}
  {{- if $root.Values.policy.existingConfigMap }}
  - name: S1_GATEWAY_POLICY_FILE
    value: /etc/s1/policy/{{ $root.Values.policy.key }}
  {{- end }}
  {{- with $root.Values.redis }}
  {{- if .existingSecret }}
  - name: S1_GATEWAY_REDIS_URL
    valueFrom:
      secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}
  {{- end }}
  {{- end }}
  {{- range $name, $value := $gateway.settings }}
  - name: S1_GATEWAY_{{ upper $name }}
    value: {{ include "s1.scalar" $value | quote }}
  {{- end }}
  {{- with $gateway.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: http, containerPort: 8000}
startupProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
lifecycle:
  preStop:
    exec: {command: [sleep, {{ include "s1.scalar" $gateway.drain.preStopSeconds | quote }}]}
resources: {{- toYaml $gateway.resources | nindent 2 }}
securityContext: {{- include "s1.containerSecurity" $root | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if not $auth.insecureNoAuth }}
  - {name: keys, mountPath: /etc/s1/keys, readOnly: true}
  {{- end }}
  {{- if $root.Values.policy.existingConfigMap }}
  - {name: policy, mountPath: /etc/s1/policy, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "s1.gatewayVolumes" -}}
{{- if not .Values.auth.insecureNoAuth }}
- name: keys
  secret:
    secretName: {{ required "auth.existingSecret is needed: a Secret with the file that `s1 keys create` writes; or set auth.insecureNoAuth" .Values.auth.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.policy.existingConfigMap }}
- name: policy
  configMap: {name: {{ .Values.policy.existingConfigMap }}}
{{- end }}
{{- end -}}

{{- /* Longest way out of a gateway's pod. */ -}}
{{- define "s1.gatewayGrace" -}}
{{- with .Values.gateway.drain -}}
{{- add .preStopSeconds .delaySeconds .timeoutSeconds 15 -}}
{{- end -}}
{{- end -}}
