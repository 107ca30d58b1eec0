import json
def test_it(tiny):
    r=tiny.run.result
    print(r['scoring'], r['warnings'], r['missing'])
    print([(d['sample_id'],d['prompt_tokens']) for d in tiny.run.details])
    print(json.dumps(r['remid'][:2]), json.dumps(r['bound'][0]), r['manifest'])
