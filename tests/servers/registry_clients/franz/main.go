// Command franz uses franz-go's registry client against a running registry, and prints what it found as one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

const (
	first     = `{"type":"object","title":"Order","properties":{"id":{"type":"integer"}},"required":["id"]}`
	second    = `{"type":"object","title":"Order","properties":{"id":{"type":"integer"},"note":{"type":"string"}},"required":["id"]}`
	narrowed  = `{"type":"object","title":"Order","properties":{"id":{"type":"integer","minimum":5}},"required":["id"]}`
	avro      = `{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"long"}]}`
	subject   = "orders/of the shop-value"
	inContext = "orders-value"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func code(err error) int {
	var answer *sr.ResponseError
	if errors.As(err, &answer) {
		return answer.ErrorCode
	}
	return 0
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	options := []sr.ClientOpt{sr.URLs(os.Args[1])}
	if len(os.Args) > 2 {
		options = append(options, sr.BasicAuth(os.Args[2], os.Args[3]))
	}
	client := must(sr.NewClient(options...))
	found := map[string]any{}
	schema := func(text string) sr.Schema { return sr.Schema{Schema: text, Type: sr.TypeJSON} }

	one := must(client.CreateSchema(ctx, subject, schema(first)))
	again := must(client.CreateSchema(ctx, subject, schema(first)))
	two := must(client.CreateSchema(ctx, subject, schema(second)))
	found["versions"] = []int{one.Version, again.Version, two.Version}
	found["same id"] = one.ID == again.ID && one.ID != two.ID
	_, err := client.CreateSchema(ctx, subject, schema(narrowed))
	found["incompatible"] = code(err)
	verdict := must(client.CheckCompatibility(ctx, subject, -1, schema(narrowed)))
	found["verdict"] = verdict.Is
	found["messages"] = len(verdict.Messages) > 0
	found["by id"] = must(client.SchemaByID(ctx, two.ID)).Schema == second
	found["looked up"] = must(client.LookupSchema(ctx, subject, schema(first))).Version
	found["latest"] = must(client.SchemaByVersion(ctx, subject, -1)).Version
	found["subjects"] = must(client.Subjects(ctx))

	other := must(client.CreateSchema(sr.InContext(ctx, ".dev"), inContext, sr.Schema{Schema: avro, Type: sr.TypeAvro}))
	found["context id"] = other.ID
	found["types"] = len(must(client.SupportedTypes(ctx)))

	set := client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatNone}, subject)[0]
	found["level"] = must(set.Level, set.Err).String()
	free := must(client.CreateSchema(ctx, subject, schema(narrowed)))
	found["free"] = free.Version
	reset := client.ResetCompatibility(ctx, subject)[0]
	found["reset"] = must(reset.Level, reset.Err).String()
	mode := client.SetMode(ctx, sr.ModeReadOnly, subject)[0]
	found["mode"] = must(mode.Mode, mode.Err).String()
	_, err = client.CreateSchema(ctx, subject, schema(`{"type":"object"}`))
	found["read only"] = code(err)
	must(client.ResetMode(ctx, subject)[0].Mode, nil)

	found["hard first"] = code(client.DeleteSchema(ctx, subject, free.Version, sr.HardDelete))
	found["soft"] = client.DeleteSchema(ctx, subject, free.Version, sr.SoftDelete) == nil
	found["hard"] = client.DeleteSchema(ctx, subject, free.Version, sr.HardDelete) == nil
	found["left"] = must(client.SubjectVersions(ctx, subject))
	_, err = client.SchemaByVersion(ctx, subject, 77)
	found["no version"] = code(err)
	_, err = client.SubjectVersions(ctx, "nobody")
	found["no subject"] = code(err)

	// The frame of a payload, written and read by the client.
	var serde sr.Serde
	type order struct {
		ID int `json:"id"`
	}
	serde.Register(two.ID, order{}, sr.EncodeFn(json.Marshal), sr.DecodeFn(json.Unmarshal))
	payload := must(serde.Encode(order{ID: 7}))
	var back order
	err = serde.Decode(payload, &back)
	found["frame"] = err == nil && back.ID == 7
	line := must(json.Marshal(found))
	fmt.Println(string(line))
}
