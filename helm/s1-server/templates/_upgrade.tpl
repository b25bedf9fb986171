{{- /* What depends on what runs already. `helm template` sees no cluster: there `lookup` finds nothing. */ -}}

{{- /* How many to write. An autoscaler's number is left as it is: if none were written, Kubernetes would make it 1.
       Call with (dict "of" values "kind" "…" "name" "…" "root" $). */ -}}
{{- define "s1.replicas" -}}
{{- $scaling := .of.autoscaling -}}
{{- if $scaling.enabled -}}
{{- $api := ternary "leaderworkerset.x-k8s.io/v1" "apps/v1" (eq .kind "LeaderWorkerSet") -}}
{{- $live := lookup $api .kind .root.Release.Namespace .name -}}
{{- if hasKey (default dict $live.spec) "replicas" -}}
{{ int64 $live.spec.replicas }}
{{- else -}}
{{ min $scaling.maxReplicas (max $scaling.minReplicas .of.replicas) }}
{{- end -}}
{{- else -}}
{{ int64 .of.replicas }}
{{- end -}}
{{- end -}}

{{- /* A quantity as a number: the cluster may write 1024Gi as 1Ti. */ -}}
{{- define "s1.quantity" -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{ mulf (float64 $number) (get $factors (trimPrefix $number .)) }}
{{- end -}}

{{- /* Refuses another claim than the one with which a StatefulSet was made. Call with (dict "engine" e "root" $). */ -}}
{{- define "s1.checkClaim" -}}
{{- $cache := .engine.cache -}}
{{- $name := .engine.fullname -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $live := lookup "apps/v1" "StatefulSet" $namespace $name -}}
{{- if $live -}}
{{- $claim := dict -}}
{{- range $live.spec.volumeClaimTemplates }}{{ $claim = .spec }}{{ end -}}
{{- $given := "" -}}
{{- $was := "" -}}
{{- if ne (not $claim) (not $cache.persistent) -}}
{{- $given = printf "persistent: %t" $cache.persistent -}}
{{- $was = printf "%t" (not $cache.persistent) -}}
{{- else if $claim -}}
{{- $class := default "" $claim.storageClassName -}}
{{- $size := $claim.resources.requests.storage -}}
{{- if ne (include "s1.quantity" $size) (include "s1.quantity" $cache.size) -}}
{{- $given = printf "size: %s" $cache.size -}}
{{- $was = $size -}}
{{- else if ne $class $cache.storageClassName -}}
{{- $given = printf "storageClassName: %s" $cache.storageClassName -}}
{{- $was = $class -}}
{{- end -}}
{{- end -}}
{{- if $given -}}
{{- fail (printf "engines[%s].cache.%s can't replace %q: Kubernetes lets nobody change the claims of a StatefulSet that is there. Run `kubectl --namespace %s delete statefulset %s --cascade=orphan`, which leaves its pods running, and upgrade again (docs/deploy.md)" .engine.name $given $was $namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
