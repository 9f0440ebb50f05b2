// Publish one task: go run publish.go TYPE BODY ID
// go mod init publish && go get github.com/rabbitmq/amqp091-go; AMQP_URL names the broker.
package main

import (
	"encoding/json"
	"log"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	taskType, body, id := os.Args[1], os.Args[2], os.Args[3]

	connection := must(amqp.Dial(os.Getenv("AMQP_URL")))
	defer connection.Close()
	channel := must(connection.Channel())
	must(0, channel.Confirm(false))
	message := must(json.Marshal(map[string]any{"id": id, "taskBody": json.RawMessage(body)}))
	confirm := must(channel.PublishWithDeferredConfirm("verger.tasks", taskType, false, false,
		amqp.Publishing{ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: message}))
	if !confirm.Wait() {
		log.Fatal("the broker refused the message")
	}
}
