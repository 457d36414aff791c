#!/bin/sh
# Install the lifecycle and the index templates in an Elasticsearch 8 or later; again at any time, with the same result.
# ELASTICSEARCH_URL=https://… ELASTICSEARCH_USER=name:password logging/elasticsearch/install.sh
set -eu

here=$(dirname "$0")
url=${ELASTICSEARCH_URL:?such as https://elasticsearch.logging:9200}

put() {
    printf '%s ' "$1"
    curl --silent --show-error --fail-with-body ${ELASTICSEARCH_USER:+--user "$ELASTICSEARCH_USER"} \
        --request PUT "$url/$1" --header 'Content-Type: application/json' --data-binary "@$here/$2"
    echo
}

put _ilm/policy/fraudscale-logs ilm-policy.json
put _component_template/fraudscale-lifecycle fraudscale-lifecycle.json
put _index_template/fraudscale-logs fraudscale-logs.json
put _index_template/fraudscale-dead-logs fraudscale-dead-logs.json
