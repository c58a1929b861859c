// Uses KafkaJS's registry client against a running registry, and prints what it found as one line of JSON.
const { SchemaRegistry, SchemaType, COMPATIBILITY } = require('@kafkajs/confluent-schema-registry')

const order = { type: 'object', title: 'Order', properties: { id: { type: 'integer' } }, required: ['id'] }
const record = { type: 'record', name: 'Order', namespace: 'shop', fields: [{ name: 'id', type: 'long' }] }

async function failure(work) {
  try {
    await work
    return null
  } catch (error) {
    return error.status ?? String(error.message)
  }
}

async function main() {
  const [host, user, password] = process.argv.slice(2)
  const auth = user ? { username: user, password } : undefined
  const registry = new SchemaRegistry({ host, auth })
  const json = (document) => ({ type: SchemaType.JSON, schema: JSON.stringify(document) })
  const found = {}
  const first = await registry.register(json(order), { subject: 'js/orders-value', compatibility: COMPATIBILITY.FULL })
  const again = await registry.register(json(order), { subject: 'js/orders-value', compatibility: COMPATIBILITY.FULL })
  found['same id'] = first.id === again.id
  found['other level'] = await failure(
    registry.register(json(order), { subject: 'js/orders-value', compatibility: COMPATIBILITY.BACKWARD }),
  )
  const narrowed = { ...order, properties: { id: { type: 'integer', minimum: 5 } } }
  found.incompatible = await failure(
    registry.register(json(narrowed), { subject: 'js/orders-value', compatibility: COMPATIBILITY.FULL }),
  )
  const payload = await registry.encode(first.id, { id: 7 })
  found.bytes = payload.toString('hex').slice(0, 2)
  found.decoded = await new SchemaRegistry({ host, auth }).decode(payload)
  found.invalid = (await failure(registry.encode(first.id, { id: 'x' }))) !== null
  found.looked = (await registry.getRegistryIdBySchema('js/orders-value', json(order))) === first.id
  found.latest = (await registry.getLatestSchemaId('js/orders-value')) === first.id
  found.version = (await registry.getRegistryId('js/orders-value', 1)) === first.id
  found.unknown = await failure(registry.getRegistryId('js/orders-value', 9))
  found['no id'] = await failure(registry.getSchema(999999))
  const avro = await registry.register({ type: SchemaType.AVRO, schema: JSON.stringify(record) })
  const framed = await registry.encode(avro.id, { id: 7 })
  found.avro = Number((await new SchemaRegistry({ host, auth }).decode(framed)).id)
  console.log(JSON.stringify(found))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
